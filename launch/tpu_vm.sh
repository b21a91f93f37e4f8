#!/usr/bin/env bash
# clipjax on one Cloud TPU VM slice, of one host or of many; typed by users, called by
# queued_resource.py. The same file is copied to the workers, where it runs as `on_worker …`:
# a command line crosses two shells, but no script does.
set -Eeuo pipefail

readonly USAGE="usage: launch/tpu_vm.sh COMMAND NAME --zone=ZONE [options] [-- arguments of the program]

  create  --type=v5litepod-16 [--version=RUNTIME] [--spot] [--create_flag=--network=…]…
  setup   [--repo=https://… --ref=REF] [--env_file=FILE]   code, Python 3.12 and packages, all workers
  run     [--module=clipjax.main] -- --config=configs/vitb32.py --workdir=gs://BUCKET/RUN
  status  the node, then each worker: running or ended, exit code, step
  logs    [--lines=100] [--worker=0]
  attach  [--worker=0]        follow the log; Ctrl-C leaves the run alone
  stop    [--kill]            save on all workers and end with 130; --kill: end at once, unsaved
  delete  ends the billing

  everywhere: --project=PROJECT --internal_ip --dry_run (print the commands, call nothing)"
readonly UV_VERSION=0.13.9  # installs Python 3.12: TPU VM images carry 3.10
readonly SAVE_SECONDS=600   # `stop` waits so long for the last save

fail() { # MESSAGE [CODE]: one line; 64 is a bad flag (clipjax/common/exits.py)
  printf 'tpu_vm.sh: %s\n' "$1" >&2
  exit "${2:-64}"
}

# --- on the user's machine -----------------------------------------------------------------

matches() { # FLAG VALUE PATTERN EXAMPLE
  [[ $2 =~ ^($3)$ ]] || fail "$1=$2: expected something like $4"
}

parse() { # fills the settings below from the command line; stops at the first bad one
  name="" zone="" type="" version="" project="" worker="" lines=100 module=clipjax.main
  repo="" ref="" env_file="" dry_run="" internal_ip="" kill="" create_flags=() arguments=()
  local value
  [[ $# -gt 0 && $1 != -* ]] || fail "a NAME comes after the command: launch/tpu_vm.sh status NAME"
  name=$1
  shift
  matches NAME "$name" '[a-z]([-a-z0-9]{0,61}[a-z0-9])?' my-tpu-1
  while [[ $# -gt 0 ]]; do
    value=${1#*=}
    case $1 in
      --zone=*) zone=$value && matches --zone "$value" '[a-z]+-[a-z]+[0-9]+-[a-z]' us-east5-b ;;
      --type=v5e-*) fail "$1: gcloud calls v5e v5litepod: --type=v5litepod-${1##*-}" ;;
      --type=*) type=$value && matches --type "$value" '(v[2-4]|v5litepod|v5p|v6e|tpu7x)-[0-9]+' v6e-16 ;;
      --version=*) version=$value && matches --version "$value" '[a-z][-a-z0-9.]*' v2-alpha-tpuv6e ;;
      --project=*) project=$value && matches --project "$value" '[a-z][-a-z0-9.:]*[a-z0-9]' my-project ;;
      --worker=*) worker=$value && matches --worker "$value" 'all|[0-9]+' 0 ;;
      --lines=*) lines=$value && matches --lines "$value" '[0-9]+' 100 ;;
      --module=*) module=$value && matches --module "$value" 'clipjax(\.[a-z_]+)+' clipjax.main ;;
      # No user name or password in the address: it would be seen in `ps` and in logs.
      --repo=*) repo=$value && matches --repo "$value" 'https://[^@[:space:]]+' https://github.com/you/clipjax ;;
      --ref=*) ref=$value && matches --ref "$value" '[A-Za-z0-9][A-Za-z0-9._/-]*' main ;;
      --env_file=*) env_file=$value ;;
      --create_flag=*) create_flags+=("$value") && matches --create_flag "$value" '--[a-z].*' --network=default ;;
      --spot) create_flags+=(--spot) ;;
      --internal_ip) internal_ip=yes ;;
      --kill) kill=yes ;;
      --dry_run) dry_run=yes ;;
      --) shift && arguments=("$@") && break ;;
      *) fail "$1: no such option; arguments of the program come after --" ;;
    esac
    shift
  done
  [[ -z $ref || -n $repo ]] || fail "--ref=$ref: of which --repo=https://…? Without one, this checkout's HEAD is sent"
  [[ -n $zone ]] || fail "--zone=… is missing, for example --zone=us-east5-b"
  where=("--zone=$zone")
  [[ -z $project ]] || where+=("--project=$project")
  reach=("${where[@]}")
  [[ -z $internal_ip ]] || reach+=(--internal-ip)
}

call() { # COMMAND…: run it, or with --dry_run print it so that it can be pasted
  if [[ -n $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

remote() { # WORKER COMMAND…: on the worker(s); each word arrives as it is
  local worker=$1 text
  shift
  printf -v text '%q ' "$@"
  call gcloud compute tpus tpu-vm ssh "$name" "${reach[@]}" --worker="$worker" --command="${text% }"
}

script() { # WORKER on_worker-COMMAND…
  local worker=$1
  shift
  remote "$worker" bash clipjax-upload/tpu_vm.sh on_worker "$@"
}

runtime_version() { # the image for --type; https://cloud.google.com/tpu/docs/runtimes
  case $version,$type in
    ?*,*) echo "$version" ;;
    ,v[234]-*) echo tpu-ubuntu2204-base ;;
    ,v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    ,v5p-*) echo v2-alpha-tpuv5 ;;
    ,v6e-*) echo v2-alpha-tpuv6e ;;
    ,) fail "--type=… is missing, for example --type=v5litepod-16" ;;
    *) fail "--type=$type: name its image with --version=… (gcloud compute tpus tpu-vm versions list)" ;;
  esac
}

create() {
  local image
  image=$(runtime_version)
  call gcloud compute tpus tpu-vm create "$name" "${where[@]}" --accelerator-type="$type" \
    --version="$image" ${create_flags[@]+"${create_flags[@]}"}
  [[ -z $dry_run ]] || return 0
  echo "tpu_vm.sh: $name is billed from now on, until: launch/tpu_vm.sh delete $name ${where[*]}" >&2
}

check_setup() { # what `setup` would send is there; sets root
  local why
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  if [[ -n $env_file ]]; then
    [[ -f $env_file ]] || fail "--env_file=$env_file: no such file"
    [[ $(ls -ld -- "$env_file") == -???------* ]] || fail "--env_file=$env_file: others may read it; chmod 600 it"
  fi
  if [[ -z $repo ]]; then
    # Of this file, because an unpacked archive may lie in somebody's git checkout.
    why=$(git -C "$root" rev-parse --verify HEAD:./launch/tpu_vm.sh 2>&1 >/dev/null) ||
      fail "no commit of $root can be sent; give --repo=https://… --ref=… (${why%%$'\n'*})"
  fi
}

warn_of_loss() { # of the program's arguments: what workers lack, or lose with the node
  local argument before="" config="" name="" root written=()
  for argument in ${arguments[@]+"${arguments[@]}"}; do
    case $before in --config | --workdir | --output) argument=$before=$argument ;; esac
    case $argument in
      --config=*) config=${argument#*=} ;;
      --workdir=* | --output=*) written+=("$argument") ;;
    esac
    before=$argument
  done
  if [[ $module == clipjax.main && ${#written[@]} -eq 0 && -n $config ]]; then
    name=${config##*/}
    written=("--workdir=runs/${name%%.py*}") # the default
  fi
  for argument in ${written[@]+"${written[@]}"}; do
    case ${argument#*=} in
      *://* | /*) ;; # an absolute path may be a shared disk
      *) printf 'tpu_vm.sh: %q: on the own disk of each worker, deleted with the node; name %s=gs://BUCKET/…\n' "$argument" "${argument%%=*}" >&2 ;;
    esac
  done
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  if [[ ${config%%:*} == *.py ]] && git -C "$root" rev-parse -q --verify HEAD >/dev/null 2>&1 &&
    ! git -C "$root" cat-file -e "HEAD:./${config%%:*}" 2>/dev/null; then
    printf 'tpu_vm.sh: --config=%q: not in HEAD of %q, which is what setup sends; commit it there, and write its path from there\n' "$config" "$root" >&2
  fi
}

setup() {
  local root folder changed
  check_setup
  if [[ -n $dry_run ]]; then
    folder=${TMPDIR:-/tmp}
  else
    folder=$(mktemp -d)
    # shellcheck disable=SC2064 # its value now
    trap "rm -rf $(printf %q "$folder")" EXIT
  fi
  call mkdir -m 700 "$folder/clipjax-upload"
  call cp "$root/launch/tpu_vm.sh" "$folder/clipjax-upload/"
  [[ -z $env_file ]] || call install -m 600 "$env_file" "$folder/clipjax-upload/env"
  if [[ -z $repo ]]; then
    changed=$(git -C "$root" status --porcelain | cut -c 4- | sed -n 1,4p | tr '\n' ' ')
    [[ -z $changed ]] ||
      echo "tpu_vm.sh: of $root only commits are sent, so not these changes: ${changed% }" >&2
    call git -C "$root" archive --format=tar.gz --output="$folder/clipjax-upload/clipjax.tar.gz" HEAD
  fi
  call gcloud compute tpus tpu-vm scp --recurse "$folder/clipjax-upload" "$name:" "${reach[@]}" --worker=all
  if [[ -n $repo ]]; then
    script all setup "$repo" "${ref:-HEAD}"
  else
    script all setup
  fi
}

run() {
  [[ ${#arguments[@]} -gt 0 ]] || fail "nothing to run: … run $name -- --config=… --workdir=gs://…"
  warn_of_loss
  # gcloud repeats a command whose connection broke; the token makes a second start harmless.
  script all start "$(date +%s)-$$" "$module" "${arguments[@]}"
}

status() {
  local -a describe=(gcloud compute tpus tpu-vm describe "$name" "${where[@]}" "--format=value(state)")
  local state=READY
  if [[ -n $dry_run ]]; then
    call "${describe[@]}"
  else
    state=$("${describe[@]}")
    echo "clipjax node=$name state=$state"
  fi
  [[ $state != READY ]] || script "${worker:-all}" state
}

# --- on a worker -----------------------------------------------------------------------------
# ~/clipjax: code and .venv. ~/clipjax-run: log, env, and of the last start token, process ids,
# exit_code.

alive() { # ids are used again after a reboot: the token in the command line tells it is ours
  local pid
  pid=$(cat "$state/supervisor" 2>/dev/null) || return 1
  grep -qzxF -- "$(cat "$state/token")" "/proc/$pid/cmdline" 2>/dev/null
}

refuse_if_alive() {
  ! alive || fail "$(hostname): a run is alive; first: launch/tpu_vm.sh stop NAME --zone=…"
}

tune_host() { # neither is worth a failed run
  echo always | sudo -n tee /sys/kernel/mm/transparent_hugepage/enabled >/dev/null ||
    echo "tpu_vm.sh: $(hostname): transparent hugepages not set; the TPU runtime is slower" >&2
  ulimit -Sn 65536 2>/dev/null || ulimit -Sn "$(ulimit -Hn)" || :
}

worker_setup() { # [REPO REF]; may be repeated
  refuse_if_alive
  mkdir -p clipjax "$state"
  chmod 700 "$state"
  # Of the code before, nothing stays; local runs and the environment do.
  find clipjax -mindepth 1 -maxdepth 1 ! -name runs ! -name .venv -exec rm -rf {} +
  if [[ $# -eq 2 ]]; then
    git -C clipjax init --quiet
    git -C clipjax fetch --quiet --depth=1 "$1" "$2"
    git -C clipjax checkout --quiet --force FETCH_HEAD
  else
    tar -xzf clipjax-upload/clipjax.tar.gz -C clipjax
  fi
  if [[ -f clipjax-upload/env ]]; then
    install -m 600 clipjax-upload/env "$state/env"
    rm clipjax-upload/env
  fi
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv >/dev/null ||
    curl --proto '=https' --tlsv1.2 -LsSf "https://astral.sh/uv/$UV_VERSION/install.sh" |
    env UV_NO_MODIFY_PATH=1 sh
  tune_host
  cd clipjax
  [[ -x .venv/bin/python ]] || uv venv --quiet --python 3.12 .venv
  uv pip install --quiet --python .venv/bin/python -c tests/constraints.txt -e '.[tpu,gcs]'
  .venv/bin/python -c 'import clipjax, platform; print("clipjax", clipjax.__version__, "on Python", platform.python_version(), "at", platform.node())'
}

worker_start() { # TOKEN MODULE ARGUMENT…
  [[ $(cat "$state/token" 2>/dev/null) != "$1" ]] || return 0
  refuse_if_alive
  [[ -x clipjax/.venv/bin/python ]] || fail "$(hostname): not set up; first: launch/tpu_vm.sh setup NAME --zone=…"
  rm -f "$state"/{supervisor,python,exit_code}
  printf '%s\n' "$1" >"$state/token"
  # A session of its own outlives the connection. No `&`: that would make Python deaf to Ctrl-C.
  setsid --fork bash "$self" on_worker supervise "$@" </dev/null >>"$state/log" 2>&1
  local tries
  for tries in {1..50}; do
    [[ ! -s $state/python ]] || break
    [[ $tries -lt 50 ]] || fail "$(hostname): the run did not start; see its log" 70
    sleep 0.1
  done
  echo "clipjax host=$(hostname) started, log in $state/log"
}

worker_supervise() { # TOKEN MODULE ARGUMENT…: Python below gets the signals, this notes its end
  local token=$1 module=$2 code=0
  shift 2
  trap : TERM INT HUP
  printf '=== clipjax run %s, %s on %s: %s\n' "$token" "$(date)" "$(hostname)" "$module"
  echo $$ >"$state/supervisor"
  cd clipjax
  if [[ -f $state/env ]]; then
    set -a
    # shellcheck disable=SC1091
    source "$state/env"
    set +a
  fi
  tune_host
  (
    echo "$BASHPID" >"$state/python"
    exec .venv/bin/python -u -m "$module" "$@"
  ) || code=$?
  printf '=== clipjax ended %s, %s: exit code %s\n' "$token" "$(date)" "$code"
  printf '%s\n' "$code" >"$state/exit_code.new"
  mv "$state/exit_code.new" "$state/exit_code"
  kill -KILL -- "-$$" # what it left behind (loader processes) would hold the chips; and itself
}

worker_state() { # one line, read by queued_resource.py too
  local what=none code step
  step=$(tail -c 200000 "$state/log" 2>/dev/null | tr '\r' '\n' | awk '
    /^=== clipjax run / { step = "" }
    match($0, /step [0-9][0-9,]*/) { step = substr($0, RSTART + 5, RLENGTH - 5); gsub(",", "", step) }
    match($0, /[0-9]+\/[0-9]+ \[[^]]*step/) { step = substr($0, RSTART); sub("/.*", "", step) }
    END { print step }')
  if [[ -s $state/exit_code ]]; then
    what=ended code=$(cat "$state/exit_code")
  elif alive; then
    what=running
  elif [[ -s $state/token ]]; then
    what=ended code=137 # killed from outside, or the host was restarted
  fi
  echo "clipjax host=$(hostname) state=$what${code:+ code=$code}${step:+ step=$step}"
}

worker_follow() {
  if alive; then
    # tail waits for a watch of ours: an id that is used again, or of a zombie, would never go.
    while alive && kill -0 $$ 2>/dev/null; do sleep 0.2; done </dev/null >/dev/null 2>&1 &
    tail -n 50 -F --pid=$! "$state/log"
  else
    echo "tpu_vm.sh: $(hostname): nothing runs; this is the end of the last run" >&2
    tail -n 50 "$state/log"
  fi
  worker_state
}

worker_stop() { # save|yes (kill)
  local deadline=$((SECONDS + SAVE_SECONDS))
  if alive && [[ $1 == save ]]; then
    kill -INT "$(cat "$state/python")"
    while alive && ((SECONDS < deadline)); do sleep 0.2; done
    ! alive || fail "$(hostname): still saving after $SAVE_SECONDS s; wait, or stop --kill" 75
  elif alive; then
    kill -KILL -- "-$(cat "$state/supervisor")"
    printf '%s\n' 137 >"$state/exit_code"
  fi
  worker_state
}

on_worker() { # COMMAND…
  cd "$HOME"
  state=$HOME/clipjax-run
  case $1 in
    setup) worker_setup "${@:2}" ;;
    start) worker_start "${@:2}" ;;
    supervise) worker_supervise "${@:2}" ;;
    state) worker_state ;;
    logs) tail -n "$2" "$state/log" | tr '\r' '\n' ;;
    follow) worker_follow ;;
    stop) worker_stop "$2" ;;
    *) fail "on_worker $1: no such command" ;;
  esac
}

main() {
  self=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/${BASH_SOURCE[0]##*/}
  case ${1:-help} in
    on_worker)
      on_worker "${@:2}" # not in a list with &&: that would switch `set -e` off inside
      return
      ;;
    help | -h | --help)
      echo "$USAGE"
      return
      ;;
    create | setup | run | status | logs | attach | stop | delete | check) ;;
    *) fail "$1: no such command; try launch/tpu_vm.sh --help" ;;
  esac
  parse "${@:2}"
  case $1 in
    create) create ;;
    setup) setup ;;
    run) run ;;
    status) status ;;
    logs) script "${worker:-0}" logs "$lines" ;;
    attach) script "${worker:-0}" follow ;;
    stop) script all stop "${kill:-save}" ;;
    delete) call gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet ;;
    check) # for queued_resource.py: the flags are good, setup can begin, and this is the image
      check_setup
      warn_of_loss
      runtime_version
      ;;
  esac
}

main "$@"; exit # on one line: a later copy over this file must not be read as its rest
