#!/usr/bin/env bash
# Creates venv/ with the packages in requirements.txt; does nothing if it is up to date.
#
#   ./setup.sh                      packages for the programs
#   ./setup.sh --tasks              packages for the tasks other than text as well
#   ./setup.sh --dev                packages for the tests as well
#   PYTHON=python3.12 ./setup.sh    with this Python instead of the first one found
set -eu
CDPATH="" cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")"

stop() {
    echo "setup.sh: $1" >&2
    exit "$2"
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

version_of() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null; }

# Each candidate is run, since an existing command may not work.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || stop "PYTHON=$PYTHON is not a Python of version 3.11 or newer" 2
        echo "$PYTHON"
        return
    fi
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if new_enough "$name"; then
            echo "$name"
            return
        fi
    done
    stop "no Python of version 3.11 or newer was found; install one, or set PYTHON=/path/to/python ./setup.sh" 1
}

venv_works() {
    new_enough venv/bin/python && venv/bin/python -c 'import pip' >/dev/null 2>&1 &&
        { [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of venv/bin/python)" ]; }
}

# What an installation of $1 depends on: the Python version and the requirements files. It is stored as the last step, so
# that an interrupted installation does not count.
fingerprint() {
    if [ "$1" = requirements.txt ]; then set -- requirements.txt; else set -- requirements*.txt; fi
    venv/bin/python - "$@" <<'END'
import hashlib, pathlib, platform, sys
texts = b"".join(pathlib.Path(name).read_bytes() for name in sys.argv[1:])
print(platform.python_version(), hashlib.sha256(texts).hexdigest())
END
}

up_to_date() {
    venv_works && [ -f "venv/.installed-$requirements" ] &&
        [ "$(cat "venv/.installed-$requirements")" = "$(fingerprint "$requirements")" ]
}

# flock: released by the system when the process ends for whatever reason.
wait_for_other_setups() {
    exec 9>.setup.lock
    "$python" - <<'END'
import fcntl
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("setup.sh: another setup is running here; waiting for it", flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError:
    pass  # a file system without locks
END
}

make_venv() {
    if [ -e venv ] && [ ! -e venv/pyvenv.cfg ] && [ -n "$(ls -A venv)" ]; then
        stop "venv exists and is not a virtual environment; move it away" 1
    fi
    echo "setup.sh: creating venv/ with Python $(version_of "$python")"
    "$python" -m venv --clear venv ||
        stop "Python could not create venv/; on Debian and Ubuntu it needs the package python3-venv" 1
}

install() {
    rm -f venv/.installed-*
    echo "setup.sh: installing $requirements (PyTorch is large; this can take minutes)"
    venv/bin/python -m pip install --no-input --disable-pip-version-check -r "$requirements" ||
        stop "pip could not install $requirements (see above); PYTHON=... chooses another Python" 1
    for finished in requirements.txt "$requirements"; do
        fingerprint "$finished" >venv/.installing
        mv venv/.installing "venv/.installed-$finished"
    done
}

requirements="requirements.txt"
case "$*" in
    "") ;;
    --tasks | --dev) requirements="requirements-${1#--}.txt" ;;
    -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p;}' setup.sh && exit 0 ;;
    *) stop "unknown option '$*'; options: --tasks, --dev, --help" 2 ;;
esac

if ! up_to_date; then
    if venv_works; then python=venv/bin/python; else python=$(find_python); fi
    wait_for_other_setups
    venv_works || make_venv
    up_to_date || install
fi
echo "setup.sh: venv/ is ready; 'source venv/bin/activate' activates it in this shell"
