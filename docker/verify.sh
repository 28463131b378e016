#!/usr/bin/env bash
# Build the CPU image and use it as a stranger would, without a container engine: as root, with buildah.
#
#   docker/verify.sh [option of `buildah build` ...]      such as -v /etc/pip.conf:/etc/pip.conf:ro
#
# BASE=debian makes the base image with debootstrap, for where no image registry is reached. FOOTAGE=<folder> has the
# offline stage run on the videos in <folder>/<class>/ too. STORAGE=<folder> keeps the images there for the next time.
# DEVICE=cuda builds the CUDA image as well, some 15 GB; nothing of it is run. Of buildah's storage drivers `vfs` works
# everywhere and takes 30 GB of disk; STORAGE_DRIVER=overlay, where the kernel has it, is much smaller and quicker.
set -euo pipefail
cd "$(dirname "$0")/.."

stranger=4321 # a user id that the image does not know
largest_mb=2500
container=

work="$(mktemp -d)"
storage="${STORAGE:-$work/storage}"
export STORAGE_DRIVER="${STORAGE_DRIVER:-vfs}" TMPDIR="$work/tmp"
mkdir -p "$TMPDIR" "$storage" "$work"/data/{videos,stores,runs}
trap cleanup EXIT

cleanup() {
    discard
    rm -rf "$work"
}

step() { printf '\n== %s\n' "$*"; }

fail() {
    printf 'verify: %s\n' "$*" >&2
    exit 1
}

engine() { buildah --root "$storage/root" --runroot "$storage/run" "$@"; }

start() { # image: the container that `inside` and `mounted` use
    discard
    container="$(engine from --pull=false "$1")"
}

discard() {
    [ -z "$container" ] || engine rm "$container" >/dev/null
    container=
}

debian() { # makes the image fame-base
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$work/root" >"$work/log" \
        || fail "debootstrap failed: $(tail -n 3 "$work/log")"
    start scratch
    engine copy --quiet "$container" "$work/root" /
    engine commit --quiet "$container" fame-base
    discard
    rm -rf "$work/root"
}

build() { # target, device, tag, options
    local target="$1" device="$2" tag="$3"
    shift 3
    engine build --isolation chroot --layers --file docker/Dockerfile --target "$target" --tag "$tag" \
        --build-arg "DEVICE=$device" ${BASE:+--build-arg "BASE=$BASE"} "$@" . >"$work/log" 2>&1 \
        || fail "$tag does not build: $(tail -n 30 "$work/log")"
}

inside() { # options of `buildah run`, --, command
    engine run --isolation chroot "$@"
}

mounted() { # as the stranger, with the data root mounted as compose.yaml does: command
    inside --user "$stranger:$stranger" --volume "$work/data/videos:/data/videos:ro" \
        --volume "$work/data/stores:/data/stores" --volume "$work/data/runs:/data/runs" "$container" -- "$@"
}

if [ "${BASE:-}" = debian ]; then
    step "Make a base image of Debian's packages"
    BASE=localhost/fame-base
    engine inspect "$BASE" >/dev/null 2>&1 || debian
fi

step "Build the CPU image"
build fame cpu fame:cpu "$@"
start localhost/fame:cpu
user="$(engine inspect --type image --format '{{.OCIv1.Config.User}}' localhost/fame:cpu)"
root="$(engine mount "$container")"
size="$(du -s --block-size=1MB "$root" | cut -f1)"
engine umount "$container" >/dev/null
echo "user $user, $size MB"
[ "$user" = 1000:1000 ] || fail "the image runs as $user"
[ "$size" -lt "$largest_mb" ] || fail "the image is larger than $largest_mb MB"

step "A folder that is not mounted is refused"
refusal="$(inside "$container" -- fame-entrypoint demo 2>&1)" && fail "the demo ran without its folders"
echo "$refusal" | grep "no folder is mounted at /data/videos" || fail "$refusal"

step "A folder of another user's is refused"
refusal="$(mounted fame-entrypoint demo 2>&1)" && fail "the demo ran in a folder that is not the user's"
echo "$refusal" | grep "user $stranger may not write to /data/stores" || fail "$refusal"
chown -R "$stranger:$stranger" "$work/data"

step "fame --version"
mounted fame-entrypoint --version

step "fame demo, short"
mounted fame-entrypoint demo --videos 32 --epochs 2

if [ -n "${FOOTAGE:-}" ]; then
    step "The offline stage on $FOOTAGE"
    cp -r "$FOOTAGE" "$work/data/videos/footage"
    mounted fame-entrypoint preprocess folder --videos /data/videos/footage --store /data/stores/footage.zarr \
        --height 128 --width 170 --clips 2
    mounted fame-entrypoint store verify /data/stores/footage.zarr
fi

step "Everything written belongs to user $stranger"
strays="$(find "$work/data/stores" "$work/data/runs" ! -uid "$stranger" -print)"
[ -z "$strays" ] || fail "not the user's: $strays"
du -sh "$work"/data/{stores,runs}

step "The tests, in the CPU image with the test tools"
build test cpu fame:test "$@"
start localhost/fame:test
inside "$container" -- python -m pytest

if [ "${DEVICE:-cpu}" = cuda ]; then
    step "Build the CUDA image"
    build fame cuda fame:cuda "$@"
fi

step "Verified"
