# shellcheck shell=bash
# Package functions for Debian and Ubuntu, to be sourced:
#   packages_missing NAME...   prints the packages that are not installed
#   packages_install NAME...   installs the packages (as root)
#   packages_ensure NAME...    prints and installs the missing packages; fails if some are missing and it is not root
#   debian_mirror [SUITE]      prints the machine's own Debian mirror for SUITE, or for any release
# No mirror is hard-coded: the mirror is taken from the machine's apt sources.

debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

kernel_package() {
    if grep -q '^ID=ubuntu$' /etc/os-release; then
        echo linux-image-virtual
    else
        echo "linux-image-cloud-$(dpkg --print-architecture)"
    fi
}

# shellcheck disable=SC2034 # used by the scripts that source this
{
    # libvirt and QEMU, and the programs that they and vmprov call
    packages_to_run=(libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils ovmf
        dnsmasq-base iptables nftables passt dmidecode mdevctl iproute2 genisoimage gpgv openssh-client ca-certificates)
    # needed by `image`
    packages_to_build_image=(debootstrap debian-archive-keyring e2fsprogs fdisk dosfstools mtools grub-common grub-pc-bin)
    # needed by `vm commit`: virt-sysprep, and a kernel for its appliance if there is none (in a container)
    packages_to_commit=(guestfs-tools)
    # needed by `java FILE.java`: any JDK since 17; a runtime has no compiler
    packages_to_run_java=()
    java --list-modules 2>/dev/null | grep '^jdk.compiler' >/dev/null || packages_to_run_java+=(default-jdk-headless)
    compgen -G '/boot/vmlinuz-*' >/dev/null || packages_to_commit+=("$(kernel_package)")
}

packages_missing() {
    local name installed
    # dpkg-query fails if it does not know one of the names, but its output is still correct.
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
    for name; do
        [[ $'\n'$installed$'\n' == *$'\ninstalled '"$name"$'\n'* ]] || printf '%s\n' "$name"
    done
}

# Needs the lists of `apt-get update`: their release files contain the origin and codename of each source.
debian_mirror() {
    # shellcheck disable=SC2016 # apt fills these in, not the shell
    apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v suite="${1:-}" '
            $1 == "Debian" && $3 == "main" && (suite ? $2 == suite : $2 !~ /-/) && !found { print $4; found = 1 }'
}

apt_quiet() {
    local log
    log=$(mktemp)
    if ! DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

# If some QEMU packages (such as qemu-utils) are installed from backports, the others must come from there, too.
add_backports() {
    local codename=$1 mirror
    mirror=$(debian_mirror "$codename")
    if [[ -z $mirror ]]; then
        echo "the packages need $codename-backports, but this machine's apt sources have no Debian mirror of $codename" >&2
        return 1
    fi
    echo "deb [signed-by=$debian_keyring] $mirror $codename-backports main" >/etc/apt/sources.list.d/vmprov-backports.list
    apt_quiet update
}

packages_install() {
    local codename guard='' status=0
    local release=()
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    apt_quiet update
    if ! apt-get install -s --no-install-recommends "$@" >/dev/null 2>&1 && grep -q '^ID=debian$' /etc/os-release; then
        [[ -n $(debian_mirror "$codename-backports") ]] || add_backports "$codename"
        release=(-t "$codename-backports")
    fi
    # Without systemd, the packages' scripts would start daemons themselves: prevent that during the installation.
    if [[ ! -d /run/systemd/system && ! -e /usr/sbin/policy-rc.d ]]; then
        guard=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >"$guard"
        chmod 755 "$guard"
    fi
    apt_quiet install --no-install-recommends "${release[@]}" "$@" || status=$?
    [[ -z $guard ]] || rm -f "$guard"
    return "$status"
}

packages_ensure() {
    local missing
    mapfile -t missing < <(packages_missing "$@")
    ((${#missing[@]})) || return 0
    if ((EUID)); then
        echo "packages are missing and only root can install them: ${missing[*]}" >&2
        return 1
    fi
    echo "installing packages: ${missing[*]}" >&2
    packages_install "${missing[@]}"
}
