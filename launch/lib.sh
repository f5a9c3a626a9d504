# shellcheck shell=bash
# What the launchers share: dry runs, retries, arguments. Sourced, not run.

DRY_RUN=${DRY_RUN:-}
LAUNCH_TRIES=${LAUNCH_TRIES:-5} # of a command that may fail for a while
LAUNCH_WAIT=${LAUNCH_WAIT:-10}  # seconds before the second try; doubled for each further one

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# Ends the script: the caller's mistake.
refuse() {
  say "$*"
  exit 2
}

# Prints a command so that it can be pasted.
show() {
  local words
  printf -v words '%q ' "$@"
  printf '%s\n' "${words% }"
}

# Runs a command, or prints it in a dry run.
run() {
  if [ -n "$DRY_RUN" ]; then
    show "$@"
  else
    "$@"
  fi
}

# Runs a command until it succeeds, LAUNCH_TRIES times at most; in a dry run prints it once.
retry() {
  local try=1 wait="$LAUNCH_WAIT" code
  while true; do
    code=0
    run "$@" || code=$?
    [ "$code" -ne 0 ] || return 0
    if [ "$try" -ge "$LAUNCH_TRIES" ]; then
      say "failed $try times with exit code $code: $(show "$@")"
      return "$code"
    fi
    say "try $try of $LAUNCH_TRIES failed with exit code $code; again in $wait s: ${*:1:6} …"
    sleep "$wait"
    try=$((try + 1))
    wait=$((wait * 2))
  done
}

# A command line in one word, for a shell elsewhere to read.
quoted() {
  local words
  printf -v words '%q ' "$@"
  printf '%s' "${words% }"
}

# Refuses to go on without a program.
need() {
  [ -n "$DRY_RUN" ] || command -v "$1" >/dev/null ||
    refuse "$1 is not installed or not on PATH. $2"
}

# Refuses an empty setting: option, value, example.
required() {
  [ -n "$2" ] || refuse "$1 is missing. For example: $1=$3"
}

# Refuses a setting that is no whole number of at least 1: option, value.
whole() {
  [[ "$2" =~ ^[1-9][0-9]*$ ]] || refuse "$1=$2 is no whole number from 1 on. For example: $1=2"
}

# Refuses an unknown option.
unknown() {
  refuse "$1 is no option. ${0##*/} --help lists them; what jaxllm is to run comes after --."
}

# Prints the comment at the head of a script, which is its help.
help_of() {
  sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$1"
}
