#!/bin/sh
# Runs on every worker: a training command that is started again after it was preempted.
#
#   worker.sh run COMMAND...                  in the foreground, for a container
#   worker.sh start LOG SECONDS COMMAND...    detached, output appended to LOG; fails if it ends badly within SECONDS
#
# Training exits with 75 (EX_TEMPFAIL) once it has saved a checkpoint because it, or another worker, was asked to stop.
# Then it is started again and continues, unless it is this script that was asked to stop: then the machine goes away.

PREEMPTED=75

run() {
  asked=0
  child=
  trap 'asked=$((asked + 1)); [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT
  while :; do
    "$@" &
    child=$!
    # A trapped signal ends the wait, not the child, which is saving: wait again.
    seen=-1
    while [ "$seen" -ne "$asked" ]; do
      seen=$asked
      wait "$child"
      code=$?
    done
    if [ "$code" -ne "$PREEMPTED" ] || [ "$asked" -gt 0 ]; then
      echo "worker.sh: exit code $code"
      return "$code"
    fi
    echo "worker.sh: preempted, starting again"
  done
}

case "$1" in
run)
  shift
  run "$@"
  ;;
start)
  log=$2
  seconds=$3
  shift 3
  # Locked as long as anything that inherits the file is alive: two trainings would fight for the TPU.
  exec 9>>"$log.lock"
  if ! flock --nonblock 9; then
    echo "training runs on $(hostname) already; see $log" >&2
    exit 1
  fi
  nohup sh "$0" run "$@" >>"$log" 2>&1 </dev/null &
  pid=$!
  while [ "$seconds" -gt 0 ] && kill -0 "$pid" 2>/dev/null; do
    sleep 1
    seconds=$((seconds - 1))
  done
  if kill -0 "$pid" 2>/dev/null; then
    exit 0
  fi
  wait "$pid"
  code=$?
  [ "$code" -eq 0 ] || tail -n 20 "$log" >&2
  exit "$code"
  ;;
*)
  echo "usage: worker.sh run COMMAND... | worker.sh start LOG SECONDS COMMAND..." >&2
  exit 2
  ;;
esac
