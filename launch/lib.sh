# shellcheck shell=bash
# What the launchers share: dry runs, retries, arguments. Sourced, not run.

# What each launcher says of itself, with a function own_option that takes or refuses its other
# options.
ACTIONS=()  # the words of which a caller names one; empty where there is only one thing to do
SETTINGS=() # options with a value: --name=VALUE sets NAME

# What parse finds beside the settings.
ACTION='' CAPACITY='' COMMAND=()

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

# Reads the arguments of a launcher.
parse() {
  while [ $# -gt 0 ]; do
    case "$1" in
      --help | -h) help_of "$0" && exit 0 ;;
      --dry-run) DRY_RUN=yes ;;
      --)
        shift
        COMMAND=("$@")
        return
        ;;
      -*) setting "$1" || own_option "$1" ;;
      *)
        [ ${#ACTIONS[@]} -gt 0 ] || unknown "$1"
        [ -z "$ACTION" ] || refuse "$ACTION and $1 are two actions: name one."
        ACTION="$1"
        ;;
    esac
    shift
  done
}

# Sets the variable of an option that is one of SETTINGS; 1 when it is none.
setting() {
  local name
  for name in "${SETTINGS[@]}"; do
    if [[ "$1" == "--$name="* ]]; then
      printf -v "$(variable "$name")" '%s' "${1#*=}"
      return
    fi
  done
  return 1
}

# The variable of a setting: its name in capitals (the bash of macOS has no ${1^^}).
variable() { printf '%s' "$1" | LC_ALL=C tr '[:lower:]' '[:upper:]'; }

# Takes an option that says which capacity to use: one of them at most.
capacity() {
  [ -z "$CAPACITY" ] || [ "$CAPACITY" = "$1" ] ||
    refuse "$CAPACITY and $1 exclude each other: name one."
  CAPACITY="$1"
}

# Refuses an unknown option.
unknown() {
  refuse "$1 is no option. ${0##*/} --help lists them; what jaxllm is to run comes after --."
}

# Refuses to go on without one of ACTIONS.
required_action() {
  local action names
  [ -n "$ACTION" ] || refuse "no action is named. ${0##*/} --help lists them."
  for action in "${ACTIONS[@]}"; do
    [ "$action" != "$ACTION" ] || return 0
  done
  printf -v names '%s, ' "${ACTIONS[@]}"
  refuse "$ACTION is no action: ${names%", $action, "} or $action."
}

# Refuses to go on without COMMAND: a --workdir for the example.
required_command() {
  [ ${#COMMAND[@]} -gt 0 ] ||
    refuse "no command is named. For example: … -- jaxllm train --config=FILE --workdir=$1"
}

# Refuses an empty setting: name, example.
required() {
  local variable
  variable="$(variable "$1")"
  [ -n "${!variable}" ] || refuse "--$1 is missing. For example: --$1=$2"
}

# Refuses settings that are no whole numbers of at least 1: names.
whole() {
  local name variable
  for name in "$@"; do
    variable="$(variable "$name")"
    [[ "${!variable}" =~ ^[1-9][0-9]*$ ]] ||
      refuse "--$name=${!variable} is no whole number from 1 on. For example: --$name=2"
  done
}

# Prints the comment at the head of a script, which is its help.
help_of() {
  sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$1"
}
