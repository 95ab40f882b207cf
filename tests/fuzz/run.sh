#!/usr/bin/env bash
# Builds the fuzz targets with coverage and runs each for FUZZ_SECONDS (default 20).   run.sh [TARGET..]
#
# What they find out is kept under target/fuzz/corpus and is where the next run begins. An input that breaks a property
# is left in target/fuzz/found, with the command that repeats it. Exit 1 if there is one.
set -u
cd "$(dirname "$0")/../.." || exit 1
seconds=${FUZZ_SECONDS:-20}
cargo=${CARGO:-cargo}
host=$(rustc -vV | sed -n 's/^host: //p')
target_dir=${CARGO_TARGET_DIR:-target}/fuzz
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(head fields proxy_protocol client_address pieces control)

# Counters on every edge, as libFuzzer reads them. With --target, build scripts are left alone.
coverage="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
coverage+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
coverage+=" -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Ccodegen-units=1"
RUSTFLAGS="$coverage" CARGO_TARGET_DIR="$target_dir" \
  "$cargo" build --locked --quiet --profile fuzz --target "$host" -p mana-fuzz --features libfuzzer || exit 1

mkdir -p "$target_dir/found"
failed=0
for target in "${targets[@]}"; do
  corpus="$target_dir/corpus/$target"
  mkdir -p "$corpus"
  binary="$target_dir/$host/fuzz/fuzz_$target"
  if "$binary" -max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -dict=tests/fuzz/http.dict -artifact_prefix="$target_dir/found/$target-" "$corpus" > "$target_dir/$target.log" 2>&1; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$target_dir/$target.log")
    edges=$(grep -o 'cov: [0-9]*' "$target_dir/$target.log" | tail -1)
    printf '%-16s %10s inputs, %s, nothing found\n' "$target" "$runs" "$edges"
  else
    tail -30 "$target_dir/$target.log" >&2
    echo "$target: an input breaks a property; repeat it with: $binary $target_dir/found/$target-*" >&2
    failed=1
  fi
done
exit "$failed"
