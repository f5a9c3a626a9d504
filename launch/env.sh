# shellcheck shell=bash
# Source this file (bash): makes or refreshes .venv in the project root and activates it.
#
#   JAXLLM_EXTRAS  extras of pyproject.toml to have, comma-separated (default: report); those
#                  installed before stay
#   JAXLLM_PYTHON  the Python to make .venv with (default: the first of 3.11 or newer)

_jaxllm_find_python() {
  local name
  if [ -n "${JAXLLM_PYTHON:-}" ]; then
    set -- "$JAXLLM_PYTHON"
  else
    set -- python3 python3.14 python3.13 python3.12 python3.11 python
  fi
  for name in "$@"; do
    if "$name" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "jaxllm needs Python 3.11 or newer, and none of these is: $*." \
    "Install one, or name it: JAXLLM_PYTHON=/path/to/python3.12" >&2
  return 1
}

# Into an existing or new .venv of Python $3: the project at $1, editable, with the extras $2.
_jaxllm_install() {
  local root="$1" venv="$1/.venv" wanted="${1}[$2]" python="$3"
  if command -v uv >/dev/null; then
    [ -x "$venv/bin/python" ] || uv venv -q --python "$python" "$venv" || return 1
    uv pip install -q --python "$venv/bin/python" -e "$wanted" -c "$root/constraints.txt"
  else
    [ -x "$venv/bin/pip" ] || "$python" -m venv "$venv" || return 1
    "$venv/bin/python" -m pip install -q --progress-bar off --disable-pip-version-check \
      -e "$wanted" -c "$root/constraints.txt"
  fi
}

# What .venv was made from, a line; it is made again when one of these differs.
_jaxllm_origin() {
  local version=""
  if [ -n "${JAXLLM_PYTHON:-}" ]; then
    version="$("$JAXLLM_PYTHON" -c 'import platform; print(platform.python_version())' 2>&1)" || true
  elif [ -f "$1/.venv/pyvenv.cfg" ]; then
    version="$(sed -n 's/^version[a-z_]* = //p' "$1/.venv/pyvenv.cfg")"
  fi
  echo "$1 ${version}"
}

_jaxllm_setup() {
  local root="$1" venv="$1/.venv" stamp="$1/.venv/jaxllm-stamp" log
  local python origin inputs extras old_origin="" old_inputs="" old_extras=""
  [ ! -f "$stamp" ] || { read -r old_origin && read -r old_inputs && read -r old_extras; } <"$stamp"
  origin="$(_jaxllm_origin "$root")"
  inputs="$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)"
  # The extras asked for and those there, each once.
  extras="$(echo "${JAXLLM_EXTRAS:-report},$old_extras" | tr ',' '\n' | sort -u | xargs | tr ' ' ',')"
  if [ -x "$venv/bin/python" ] &&
    [ "$origin $inputs $extras" = "$old_origin $old_inputs $old_extras" ]; then
    return
  fi

  python="$(_jaxllm_find_python)" || return 1
  if [ -n "$old_origin" ] && [ "$origin" != "$old_origin" ]; then
    rm -rf "$venv" # the project was moved or copied, or another Python is asked for
  fi
  local takes="about a minute"
  [ "$extras" = report ] || takes="a few minutes"
  echo "Setting up .venv with [$extras] (once, $takes) …" >&2
  log="$(mktemp)"
  if ! _jaxllm_install "$root" "$extras" "$python" >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    echo "Setting up .venv failed; what the installer said is above." >&2
    return 1
  fi
  mv "$log" "$venv/install.log"
  printf '%s\n' "$(_jaxllm_origin "$root")" "$inputs" "$extras" >"$stamp"
}

# Without an accelerator jax would look for a TPU and print a page of warnings.
_jaxllm_platform() {
  local file
  for file in /dev/accel0 /dev/vfio/0 /dev/nvidia0 /dev/nvidiactl /dev/kfd /dev/dxg; do
    [ ! -e "$file" ] || return 0
  done
  if [ -z "${TPU_NAME:-}" ] && ! command -v nvidia-smi >/dev/null; then
    export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
  fi
}

_jaxllm_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
_jaxllm_setup "$_jaxllm_root" || return 1
source "$_jaxllm_root/.venv/bin/activate"
_jaxllm_platform
