#!/usr/bin/env bash
# Runs the test suites that others wrote against the proxy, and prints a table of verdicts.   run.sh PATH_OF_MANA_PROXY
#
# What a suite needs comes from PyPI, npm and Debian into a directory of its own, which is removed at the end. A suite
# whose parts are not to be had is skipped, and says so. Everything listens on loopback. Exit 1 if a suite failed.
set -u
binary=$(realpath "${1:?usage: run.sh PATH_OF_MANA_PROXY}")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
pids=()
failed=0
table=""

cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
  wait 2>/dev/null
  rm -rf "$work"
}
trap cleanup EXIT

verdict() { # SUITE VERDICT DETAIL
  table+=$(printf '%-26s %-8s %s' "$1" "$2" "$3")$'\n'
  [ "$2" != failed ] || failed=1
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

wait_for_port() {
  for _ in $(seq 100); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return 0; fi
    sleep 0.1
  done
  echo "nothing listens on $1" >&2
  return 1
}

certificate() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=suites CA" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -keyout "$work/ca.key" -out "$work/ca.pem" 2>/dev/null
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=localhost" \
    -keyout "$work/site.key" -out "$work/site.csr" 2>/dev/null
  printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=serverAuth\n' \
    > "$work/site.ext"
  openssl x509 -req -in "$work/site.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
    -extfile "$work/site.ext" -out "$work/site.crt" 2>/dev/null
  cat "$work/site.crt" "$work/ca.pem" > "$work/chain.pem"
}

start_stage() {
  (cd "$work" && npm install --silent --no-fund --no-audit ws >/dev/null 2>&1) || return 1
  upstream=$(free_port) https=$(free_port)
  NODE_PATH="$work/node_modules" node "$here/upstream.js" "$upstream" & pids+=($!)
  wait_for_port "$upstream" || return 1
  mkdir -p "$work/run"
  cat > "$work/mana-proxy.toml" <<TOML
[listen]
https = ["127.0.0.1:$https"]
[control]
socket = "$work/run/control.sock"
[state]
dir = "$work/run/state"
[access_log]
to = "off"
[limits]
# All of them come from one address.
requests_per_address = 0
connections_per_address = 1000
[[site]]
host = "localhost"
blue = ["127.0.0.1:$upstream"]
green = ["127.0.0.1:9"]
certificate = { chain = "$work/chain.pem", key = "$work/site.key" }
TOML
  "$binary" run --config "$work/mana-proxy.toml" 2>"$work/proxy.log" & pids+=($!)
  wait_for_port "$https"
}

# TLS as Mozilla's intermediate profile has it.
sslyze_suite() {
  python3 -m venv "$work/sslyze" >/dev/null 2>&1 && "$work/sslyze/bin/pip" -q install sslyze 2>/dev/null \
    || { verdict sslyze skipped "PyPI's sslyze cannot be installed"; return; }
  if "$work/sslyze/bin/sslyze" --certinfo_ca_file "$work/ca.pem" --mozilla_config intermediate \
    "localhost:$https" > "$work/sslyze.log" 2>&1; then
    verdict sslyze passed "intermediate profile: compliant"
  else
    verdict sslyze failed "$(grep -A3 'FAILED' "$work/sslyze.log" | tr -s ' \n' ' ' | head -c 200)"
  fi
}

# Websockets: 247 cases. A case may be NON-STRICT or INFORMATIONAL, as on a direct connection.
autobahn_suite() {
  local python
  python=$(command -v python2.7) && "$python" -c 'import sys' 2>/dev/null \
    && "$python" -m virtualenv -q "$work/autobahn" >/dev/null 2>&1 \
    && "$work/autobahn/bin/pip" -q install autobahntestsuite==0.8.2 >/dev/null 2>&1 \
    || { verdict autobahn skipped "needs Python 2.7 with virtualenv, and PyPI's autobahntestsuite"; return; }
  cat > "$work/autobahn.json" <<JSON
{"outdir": "$work/reports", "servers": [{"agent": "proxy", "url": "wss://localhost:$https/ws"}],
 "cases": ["*"], "exclude-cases": ["9.*", "12.*", "13.*"], "exclude-agent-cases": {}}
JSON
  timeout 300 "$work/autobahn/bin/wstest" -m fuzzingclient -s "$work/autobahn.json" > "$work/autobahn.log" 2>&1
  local summary
  summary=$(python3 - "$work/reports/index.json" <<'PY'
import collections, json, sys
cases = list(json.load(open(sys.argv[1])).values())[0]
count = collections.Counter(case["behavior"] for case in cases.values())
bad = [name for name, case in cases.items()
       if case["behavior"] not in ("OK", "NON-STRICT", "INFORMATIONAL") or case["behaviorClose"] in ("FAILED", "WRONG CODE")]
print(len(cases), "cases:", ", ".join(f"{n} {k}" for k, n in count.items()), "bad:", bad)
sys.exit(1 if bad or len(cases) < 200 else 0)
PY
  ) && verdict autobahn passed "$summary" || verdict autobahn failed "${summary:-no report}"
}

# Slow heads, slow bodies, range headers, slow readers: the proxy stays available, and lets go of them in time.
slowhttp_suite() {
  command -v slowhttptest >/dev/null || { verdict slowhttptest skipped "needs Debian's slowhttptest"; return; }
  local mode log
  for mode in H B X R; do
    log="$work/slow-$mode.log"
    timeout 100 slowhttptest "-$mode" -c 300 -r 100 -l 45 -i 3 -p 3 -w 1 -y 20 -n 1 -z 1 \
      -u "https://localhost:$https/large" > "$log" 2>&1
    if grep -aq 'service available' "$log" && ! grep -a 'service available' "$log" | grep -aq 'NO'; then
      verdict "slowhttptest -$mode" passed "available throughout"
    else
      verdict "slowhttptest -$mode" failed "not available throughout"
    fi
  done
}

certificate && start_stage || { echo "the stage cannot be set up: node, npm, openssl and python3 are needed" >&2; exit 1; }
sslyze_suite
autobahn_suite
slowhttp_suite
echo
printf '%s' "$table"
exit "$failed"
