# Sourced: install Debian packages when root, else say in one sentence what to install.
# need PURPOSE PACKAGE...
need() {
    purpose=$1
    shift
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "$purpose needs these packages; ask an administrator to run: apt-get install $*" >&2
        return 1
    fi
    echo "Installing $* ($purpose)" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -q --no-install-recommends "$@" >/dev/null 2>&1 && return 0
    apt-get update -q >/dev/null 2>&1
    if ! apt-get install -y -q --no-install-recommends "$@" >/tmp/clawplane-apt.$$ 2>&1; then
        cat "/tmp/clawplane-apt.$$" >&2
        rm -f "/tmp/clawplane-apt.$$"
        return 1
    fi
    rm -f "/tmp/clawplane-apt.$$"
}
