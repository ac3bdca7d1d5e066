#!/usr/bin/env bash
# Installs vmprov on Debian and Ubuntu: packages, a release build, the binary, completions and manual pages.
#   ./install.sh                    as root below /usr/local, else below ~/.local
#   ./install.sh --demo             also creates a VM that you can log in to
#   ./install.sh --uninstall        removes what it installed; VMs, keys and packages stay
# --prefix DIR        installs below DIR
# --image FILE|URL    the cloud image of the demo; the default is Debian 12, which is built if it cannot be downloaded
# The demo needs libvirtd. If none is running and there is no systemd to start one (a container, CI), the demo uses a
# private one, tests/lab/libvirtd, with its files in VMPROV_LAB.
set -euo pipefail

here=$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")
. "$here/tests/lab/packages.sh"
lab=$here/tests/lab/libvirtd
demo_image=https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2
# Long enough for an emulated guest.
demo_limit=15m

say() {
    echo "install: $*" >&2
}

fail() {
    say "$*"
    exit 1
}

usage() {
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$here/install.sh"
}

check_system() {
    local ID=unknown PRETTY_NAME='this system' architecture
    [[ ! -e /etc/os-release ]] || . /etc/os-release
    case $ID in
    debian | ubuntu) ;;
    *) fail "$PRETTY_NAME is not supported, only Debian and Ubuntu. To install by hand: install libvirt, QEMU," \
        "genisoimage, gpgv and an ssh client, then run: cargo build --release --locked" ;;
    esac
    architecture=$(dpkg --print-architecture)
    [[ $architecture == amd64 ]] || fail "the architecture $architecture is not supported, only amd64"
}

# Prints the folder of cargo: from PATH, or where rustup installs it for this user or the one who called sudo.
cargo_folder() {
    local home cargo
    if cargo=$(command -v cargo); then
        dirname -- "$cargo"
        return
    fi
    for home in "$HOME" "$(getent passwd "${SUDO_USER:-root}" | cut -d : -f 6)"; do
        if [[ -x $home/.cargo/bin/cargo ]]; then
            echo "$home/.cargo/bin"
            return
        fi
    done
    return 1
}

# Runs a command as the user who called sudo, if that user owns this folder: the build's files and rustup are theirs.
as_builder() {
    if ((EUID == 0)) && [[ -n ${SUDO_USER:-} && $(stat -c %U "$here") == "$SUDO_USER" && $SUDO_USER != root ]]; then
        runuser -u "$SUDO_USER" -- env HOME="$(getent passwd "$SUDO_USER" | cut -d : -f 6)" "$@"
    else
        "$@"
    fi
}

build() {
    local needed found folder
    needed=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$here/Cargo.toml")
    if ! folder=$(cargo_folder); then
        fail "Rust is not installed: vmprov needs $needed or newer, and apt's is older. Install it from" \
            "https://rustup.rs, then run this again: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
    fi
    PATH=$folder:$PATH
    found=$(cd "$here" && as_builder env PATH="$PATH" cargo --version | cut -d ' ' -f 2)
    if [[ $(printf '%s\n' "$needed" "$found" | sort -V | head -n 1) != "$needed" ]]; then
        fail "Rust $found is too old: vmprov needs $needed or newer. Update it with: rustup update stable" \
            "(without rustup, see https://rustup.rs)"
    fi
    (cd "$here" && as_builder env PATH="$PATH" cargo build --release --locked --target-dir "$here/target") >&2
}

# Prints each file to install: mode, source and destination, separated by tabs.
files() {
    local page
    printf '%s\t%s\t%s\n' \
        755 "$here/target/release/vmprov" "$prefix/bin/vmprov" \
        644 "$here/completions/vmprov.bash" "$prefix/share/bash-completion/completions/vmprov" \
        644 "$here/completions/vmprov.zsh" "$prefix/share/zsh/site-functions/_vmprov" \
        644 "$here/completions/vmprov.fish" "$prefix/share/fish/vendor_completions.d/vmprov.fish"
    for page in "$here"/man/*.[1-8]; do
        printf '%s\t%s\t%s\n' 644 "$page" "$prefix/share/man/man${page##*.}/${page##*/}"
    done
}

install_files() {
    local mode source destination
    while IFS=$'\t' read -r mode source destination; do
        # -C leaves identical files untouched.
        install -C -D -m "$mode" "$source" "$destination" ||
            fail "cannot write to $prefix: run this as root, or choose another folder with --prefix"
    done < <(files)
    say "installed vmprov in $prefix/bin, its manual and completions in $prefix/share"
    in_path || say "$prefix/bin is not in PATH: add it, or run $prefix/bin/vmprov"
}

in_path() {
    [[ :$PATH: == *":$prefix/bin:"* ]]
}

uninstall() {
    local mode source destination page removed=0
    while IFS=$'\t' read -r mode source destination; do
        [[ -e $destination ]] || continue
        rm -- "$destination"
        removed=$((removed + 1))
    done < <(files)
    # Also the pages of an earlier version.
    for page in "$prefix"/share/man/man[1-8]/vmprov{,[-.]*}.[1-8]; do
        rm -f -- "$page"
    done
    say "removed $removed files from $prefix"
    say "kept: VMs and their volumes, keys (${SSH_KEY_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/vmprov/keys})," \
        "settings (${XDG_CONFIG_HOME:-$HOME/.config}/vmprov), downloads (${XDG_CACHE_HOME:-$HOME/.cache}/vmprov)," \
        "packages, $here/target"
}

libvirtd_answers() {
    timeout 30 virsh -q -c "$uri" version >/dev/null 2>&1
}

# Makes sure that libvirtd is running, and sets `run` to the prefix of commands that use it. Only the demo gets a
# private libvirtd, and only the demo fails without one.
start_libvirtd() {
    local problem=say
    [[ -z $demo ]] || problem=fail
    run=()
    if libvirtd_answers; then
        return
    elif [[ $uri != qemu:///system ]]; then
        "$problem" "cannot reach libvirt at $uri (set by LIBVIRT_URI or LIBVIRT_DEFAULT_URI)"
    elif [[ -d /run/systemd/system ]] && ((EUID)); then
        "$problem" "cannot reach libvirtd. As root, start it with: systemctl enable --now libvirtd;" \
            "to get access, run: usermod -aG libvirt $(id -un), then log in again"
    elif [[ -d /run/systemd/system ]]; then
        say "starting libvirtd: systemctl enable --now libvirtd"
        systemctl -q enable --now libvirtd || fail "cannot start libvirtd: see systemctl status libvirtd"
        libvirtd_answers || fail "libvirtd is running but does not respond: see journalctl -u libvirtd"
    elif [[ -z $demo ]]; then
        say "libvirtd is not running, and there is no systemd to start it. Start a private one with: $lab start"
    elif ((EUID)); then
        fail "libvirtd is not running, and only root can start a private one: run this as root"
    else
        "$lab" start
        run=("$lab" exec)
    fi
}

# Runs the installed vmprov with that libvirtd.
vmprov() {
    "${run[@]}" "$prefix/bin/vmprov" "$@"
}

# The private libvirtd's namespace has no internet access, so this runs outside of it. A create needs only the socket.
create_from_url() {
    local connection=()
    ((${#run[@]} == 0)) || connection=(--connect "qemu+unix:///system?socket=$("$lab" socket)")
    "$prefix/bin/vmprov" "${connection[@]}" vm create demo --image "$1" --ssh-key demo >&2
}

create_from_file() {
    vmprov vm create demo --image "$1" --ssh-key demo >&2
}

create_from_built_image() {
    local built
    ((EUID == 0)) || fail "only root can build an image: run this as root, or pass --image FILE"
    packages_ensure "${packages_to_build_image[@]}"
    built=$("$here/tests/lab/image")
    create_from_file "$built"
}

create_demo() {
    local status=0
    case $image in
    '')
        say "downloading Debian 12: $demo_image"
        create_from_url "$demo_image" || status=$?
        if ((status == 9)); then
            say "the download failed: building an image from Debian's packages"
            create_from_built_image
        elif ((status)); then
            exit "$status"
        fi
        ;;
    http://* | https://*) create_from_url "$image" ;;
    *) create_from_file "$image" ;;
    esac
}

demo() {
    local info
    vmprov key show demo >/dev/null 2>&1 || vmprov key generate demo >&2
    if info=$(vmprov vm info demo -o json 2>/dev/null) && [[ $info != *'"incomplete": true'* ]]; then
        say "the VM demo already exists"
        vmprov vm start demo >&2
    else
        create_demo
    fi
    say "waiting for SSH in the VM"
    vmprov vm wait demo --for ssh --timeout "$demo_limit" >&2
    show_commands
}

# Prints commands that work in any shell: they include the settings that this run got from the environment.
show_commands() {
    local name program=$prefix/bin/vmprov settings=() lab_settings=() command
    for name in LIBVIRT_URI LIBVIRT_DEFAULT_URI LIBVIRT_STORAGE_POOL LIBVIRT_STORAGE_PATH SSH_KEY_DIR XDG_DATA_HOME \
        XDG_CONFIG_HOME VMPROV_LAB; do
        [[ -z ${!name:-} ]] || settings+=("$name=${!name}")
    done
    ((${#settings[@]} == 0)) || settings=(env "${settings[@]}")
    ! in_path || program=vmprov
    command=$(quoted "${settings[@]}" "${run[@]}" "$program")
    echo "To delete the VM and its key:"
    echo "    $command vm delete demo --yes && $command key delete demo"
    if ((${#run[@]})); then
        [[ -z ${VMPROV_LAB:-} ]] || lab_settings=(env "VMPROV_LAB=$VMPROV_LAB")
        echo "To stop the private libvirtd and delete everything in it:"
        echo "    $(quoted "${lab_settings[@]}" "$lab" stop)"
    fi
    echo "To log in:"
    echo "    $command vm ssh demo"
}

# Prints words, quoted for a shell.
quoted() {
    local word line=''
    for word; do
        [[ $word =~ ^[A-Za-z0-9_./:=+@-]+$ ]] || word=${word@Q}
        line+=" $word"
    done
    echo "${line# }"
}

uri=${LIBVIRT_URI:-${LIBVIRT_DEFAULT_URI:-qemu:///system}}
prefix='' demo='' image='' uninstall=''
while (($#)); do
    case $1 in
    --demo) demo=yes ;;
    --uninstall) uninstall=yes ;;
    --prefix | --image)
        (($# > 1)) || fail "$1 needs a value"
        declare "${1#--}=$2"
        shift
        ;;
    -h | --help)
        usage
        exit
        ;;
    *)
        say "unknown argument: $1"
        usage >&2
        exit 2
        ;;
    esac
    shift
done
[[ -z $image || -n $demo ]] || fail "--image requires --demo"
if [[ -z $prefix ]]; then
    prefix=/usr/local
    ((EUID == 0)) || prefix=$HOME/.local
fi
prefix=$(realpath -m -- "$prefix")

if [[ -n $uninstall ]]; then
    uninstall
    exit
fi
case $image in
'' | http://* | https://*) ;;
*)
    [[ -f $image ]] || fail "no such image: $image"
    image=$(realpath -- "$image")
    ;;
esac
check_system
needed=("${packages_to_run[@]}")
# The build needs a linker.
command -v cc >/dev/null || needed+=(gcc libc6-dev)
if ((EUID)) && [[ -n $(packages_missing "${needed[@]}") ]]; then
    fail "only root can install these packages: apt-get install --no-install-recommends" \
        "$(packages_missing "${needed[@]}" | xargs)"
fi
packages_ensure "${needed[@]}"
build
install_files
start_libvirtd
[[ -z $demo ]] || demo
