# shellcheck shell=bash
# Package functions for Debian and Ubuntu. Sourced, never run:
#   packages_missing NAME...   prints those of the packages that are not installed
#   packages_install NAME...   installs them (as root)
#   packages_ensure NAME...    installs those that are not there, saying which; fails when that takes root and we are not
#   debian_mirror [SUITE]      prints the machine's own Debian mirror for SUITE, or for any release
# Nothing here names a mirror: the machine's own apt sources say which one it uses.

debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

kernel_package() {
    if grep -q '^ID=ubuntu$' /etc/os-release; then
        echo linux-image-virtual
    else
        echo "linux-image-cloud-$(dpkg --print-architecture)"
    fi
}

# shellcheck disable=SC2034 # for whoever sources this
{
    # libvirt and QEMU, what they call, and what vmprov calls
    packages_to_run=(libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils ovmf
        dnsmasq-base iptables nftables passt dmidecode mdevctl iproute2 genisoimage openssh-client ca-certificates)
    # what `image` builds with
    packages_to_build_image=(debootstrap debian-archive-keyring e2fsprogs fdisk dosfstools mtools grub-common grub-pc-bin)
    # what `vm commit` calls: virt-sysprep, and a kernel for its appliance where there is none (a container)
    packages_to_commit=(guestfs-tools)
    # what `java FILE.java` needs: a runtime alone has no compiler, and any JDK from 17 on will do
    packages_to_run_java=()
    java --list-modules 2>/dev/null | grep '^jdk.compiler' >/dev/null || packages_to_run_java+=(default-jdk-headless)
    compgen -G '/boot/vmlinuz-*' >/dev/null || packages_to_commit+=("$(kernel_package)")
}

packages_missing() {
    local name installed
    # dpkg-query fails when it does not know one of the names; what it prints is still right.
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
    for name; do
        [[ $'\n'$installed$'\n' == *$'\ninstalled '"$name"$'\n'* ]] || printf '%s\n' "$name"
    done
}

# Needs the lists of `apt-get update`: the release files in them say what each entry is.
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

# A machine that already has some QEMU packages from backports (qemu-utils, say) takes the rest only from there.
add_backports() {
    local codename=$1 mirror
    mirror=$(debian_mirror "$codename")
    if [[ -z $mirror ]]; then
        echo "the packages need $codename-backports, and no apt source of this machine is a Debian mirror of $codename" >&2
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
    # Without systemd the packages' scripts would start daemons by themselves: forbid it for as long as this runs.
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
        echo "packages are missing, and only root can install them: ${missing[*]}" >&2
        return 1
    fi
    echo "installing packages: ${missing[*]}" >&2
    packages_install "${missing[@]}"
}
