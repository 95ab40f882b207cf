#!/usr/bin/env bash
# Checks the files that ship with the binary and that no compiler reads: workflows, the compose file, shell scripts.
# A check that cannot run fails. First each has to find what is wrong with faulty/, so that silence means something.
set -euo pipefail
cd "$(dirname "$0")/../.."

workflows=(deploy/github/*.yml .github/workflows/*.yml)
scripts=(.ci/run deploy/debian/* deploy/github/mana-proxy-ssh tests/*/*.sh)
tools=${CARGO_TARGET_DIR:-target}/tmp/shipped-$(sha256sum tests/shipped/requirements.txt | cut -c 1-16)

main() {
  install_tools
  finds "unpinned-uses" zizmor_says tests/shipped/faulty/workflow.yml
  finds "template-injection" zizmor_says tests/shipped/faulty/workflow.yml
  finds "SC2086" actionlint_says tests/shipped/faulty/workflow.yml
  finds "\[expression\]" actionlint_says tests/shipped/faulty/workflow.yml
  finds "SC2154" shellcheck_says tests/shipped/faulty/script.sh
  zizmor_says "${workflows[@]}"
  actionlint_says "${workflows[@]}"
  shellcheck_says "${scripts[@]}"
  compose_file
  echo "workflows, compose file and scripts: no faults"
}

# A virtual environment of its own, made anew when the requirements change.
install_tools() {
  [ ! -e "$tools/complete" ] || return 0
  rm -rf "$tools"
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --requirement tests/shipped/requirements.txt
  touch "$tools/complete"
}

# finds WHAT COMMAND..: the command fails, and names it.
finds() {
  local what=$1 said
  shift
  if said=$("$@" 2>&1); then
    echo "error: $* finds nothing wrong; it should find $what" >&2
    exit 1
  fi
  grep --quiet -- "$what" <<<"$said" || { echo "error: $* does not find $what:" >&2; echo "$said" >&2; exit 1; }
}

zizmor_says() {
  "$tools/bin/zizmor" --quiet --offline --no-progress --config tests/shipped/zizmor.yml "$@"
}

actionlint_says() {
  "$tools/bin/actionlint" -shellcheck="$(command -v shellcheck)" -pyflakes= "$@"
}

shellcheck_says() {
  shellcheck --severity=warning "$@"
}

# As `mana-proxy deploy` calls it: with both images it is valid and publishes on loopback alone; without one it is refused.
compose_file() {
  local config said
  config=$(BLUE_IMAGE=one GREEN_IMAGE=two compose config)
  [ "$(grep --count --extended-regexp '127\.0\.0\.1(:400[01]:3000|$)' <<<"$config")" = 2 ] ||
    { echo "error: deploy/compose.yml: a service is not published on 127.0.0.1 alone" >&2; exit 1; }
  if said=$(BLUE_IMAGE=one compose config 2>&1); then
    echo "error: deploy/compose.yml is valid without GREEN_IMAGE" >&2
    exit 1
  fi
  grep --quiet "mana-proxy deploy" <<<"$said" || { echo "error: deploy/compose.yml: $said" >&2; exit 1; }
}

# The plugin or docker-compose 1.29, whichever is there. Neither needs the engine for this.
compose() {
  if docker compose version >/dev/null 2>&1; then
    docker compose -p mana -f deploy/compose.yml "$@"
  else
    docker-compose -p mana -f deploy/compose.yml "$@"
  fi
}

main
