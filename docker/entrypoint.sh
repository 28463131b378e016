#!/bin/sh
# Run `fame` in the container, after saying in one line what is wrong with the mounted folders: results written to a
# folder that is not mounted vanish with the container, and a folder of another user's fails only hours later.
set -eu

refuse() {
    echo "fame: $*" >&2
    exit 2
}

check() { # folder, mode: "read" or "write"
    mountpoint -q "$FAME_ROOT" || mountpoint -q "$1" || refuse "no folder is mounted at $1." \
        "Use 'docker compose run' from the repository root, or add '-v /your/folder:$1' to 'docker run'."
    [ "$2" = read ] || [ -w "$1" ] || refuse "user $(id -u) may not write to $1, which belongs to user $(stat -c %u "$1")." \
        "Put your user id (id -u) and group id (id -g) into .env as FAME_UID and FAME_GID, or chown the folder."
}

case " $* " in
*" -h "* | *" --help "* | *" --version "*) ;;
*)
    check "$FAME_ROOT/videos" read
    check "$FAME_ROOT/stores" write
    check "$FAME_ROOT/runs" write
    ;;
esac
exec fame "$@"
