#!/bin/sh
# Make a host of the pool out of a Debian 13: the gateway's package, HTCondor, and their configuration. Run as root, in
# the machine, as often as wanted.
#
# Environment:
#   LAB_NODE, LAB_ADDRESS   its name, and its address on the private network
#   LAB_ROLES               some of: gateway manager witness submit execute
#   LAB_HOSTS               every host of the lab: NAME=ADDRESS ...
#   LAB_PAYLOAD             a tar file with condor-gateway.deb, gateway.cfg, cluster.key, POOL, ssh_key.pub, and for
#                           hosts without a gateway submit.config and execute.config; compiled.tar where there is one
#   LAB_INTERFACE           where the private network is (the machine's second interface)
#   LAB_HEARTBEAT, LAB_LEASE, LAB_CHECK, LAB_FALL   if not empty: in place of what gateway.cfg says
#   LAB_SLOTS               job slots of an execute host (4)
#   LAB_CYCLE               seconds from one negotiation to the next (1)
set -eu

payload=${LAB_PAYLOAD:-/tmp/condor-gateway-payload.tar}
domain=lab.internal
config=/etc/condor-gateway/gateway.cfg
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin

say() { echo "provision: $*"; }
fail() { echo "provision: $*" >&2; exit 1; }
is() { case " $LAB_ROLES " in *" $1 "*) return 0 ;; esac; return 1; }
installed() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

runs_gateway() { is gateway || is manager || is witness; }
runs_condor() { is manager || is submit || is execute; }

second_interface() {
    # Vagrant's own comes first and has an address; the private one has what it shall have, or none.
    ip -4 -o address show | awk -v address="$LAB_ADDRESS" 'index($4, address "/") == 1 { print $2; exit }' >"$work/found"
    if [ ! -s "$work/found" ]; then
        for path in /sys/class/net/*; do
            name=${path##*/}
            case $name in lo | docker* | veth*) continue ;; esac
            ip -4 -o address show dev "$name" | grep -q . || echo "$name" >>"$work/found"
        done
    fi
    [ -s "$work/found" ] || fail "there is no second interface: what does 'ip link' show?"
    head -n 1 "$work/found"
}

set_name() {
    echo "$LAB_NODE" >/etc/hostname
    hostname "$LAB_NODE"
    {
        echo "127.0.0.1 localhost"
        for host in $LAB_HOSTS; do echo "${host#*=} ${host%%=*}.$domain ${host%%=*}"; done
    } >/etc/hosts
}

set_address() {
    if [ -d /etc/network/interfaces.d ] && ! systemctl --quiet is-active systemd-networkd; then
        printf 'auto %s\niface %s inet static\n    address %s/24\n' "$interface" "$interface" "$LAB_ADDRESS" \
            >/etc/network/interfaces.d/lab
    else
        # The gateway's address is foreign to networkd, which would take it away at a restart.
        printf '[Match]\nName=%s\n\n[Network]\nAddress=%s/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nKeepConfiguration=yes\n' \
            "$interface" "$LAB_ADDRESS" >/etc/systemd/network/20-lab.network
    fi
    # At once, without a daemon; the file is for the next boot.
    ip link set "$interface" up
    ip -4 address show dev "$interface" | grep -q " $LAB_ADDRESS/24 " || ip address add "$LAB_ADDRESS/24" dev "$interface"
}

# Packages that the box has not are fetched; a box that was built for this lab has them all.
install_packages() {
    lacking=
    for package in nftables iproute2 python3 init-system-helpers; do installed "$package" || lacking="$lacking $package"; done
    if runs_condor && ! installed condor; then lacking="$lacking condor"; fi
    if [ -n "$lacking" ]; then
        say "fetching$lacking"
        systemctl mask --quiet condor.service # it starts when it is configured, and not before
        apt-get -qq update || fail "no package mirror is in reach of this machine"
        # shellcheck disable=SC2086
        apt-get -qq -y --no-install-recommends install $lacking >/dev/null
    fi
    if runs_gateway; then
        say "installing the gateway"
        # What the package would compile here; it is left alone where it is of the same source.
        if [ -f "$work/compiled.tar" ]; then tar -C / -xf "$work/compiled.tar"; fi
        dpkg --install "$work/condor-gateway.deb" >/dev/null
    fi
}

# The example's interface, times and hosts become this lab's. Peers and servers that are not up here are left away.
write_gateway() {
    known=" $(for host in $LAB_HOSTS; do printf '%s ' "${host%%=*}"; done)"
    mkdir -p /etc/condor-gateway
    awk -v known="$known" -v interface="$interface" -v heartbeat="${LAB_HEARTBEAT:-}" -v lease="${LAB_LEASE:-}" \
        -v check="${LAB_CHECK:-}" -v fall="${LAB_FALL:-}" '
        function is_known(name) { return index(known, " " name " ") > 0 }
        ($1 == "peer" || $1 == "server") && !is_known($2) { next }
        $1 == "holder" {
            line = ""
            for (place = 2; place <= NF; place++) if (is_known($place)) line = line " " $place
            print "    holder" line
            next
        }
        $1 == "heartbeat" && heartbeat != "" { print "    heartbeat " heartbeat; next }
        $1 == "lease" && lease != "" { print "    lease " lease; next }
        { sub(/dev eth0/, "dev " interface) }
        / check inter / && check != "" { sub(/inter [^ ]+/, "inter " check) }
        / fall / && fall != "" { sub(/fall [^ ]+/, "fall " fall) }
        { print }' "$work/gateway.cfg" >$config
    # Two voters can't tell a dead neighbour from a cut cable, and the file must say what they do then.
    if [ "$(grep -c '^ *peer ' $config)" = 2 ] && ! grep -q '^ *on-partition ' $config; then
        sed -i '/^ *lease /a\    on-partition hold' $config
    fi
    install -m 0600 "$work/cluster.key" /etc/condor-gateway/cluster.key
}

# What makes this a lab: small, quick, and without reach for the machine's sysctls. The pool's own follows.
write_condor() {
    mkdir -p /etc/condor/config.d
    install -d -m 0700 /etc/condor/passwords.d
    install -m 0600 "$work/POOL" /etc/condor/passwords.d/POOL
    daemons="MASTER SHARED_PORT"
    if is manager; then daemons="$daemons COLLECTOR"; fi
    if is submit; then daemons="$daemons SCHEDD"; fi
    if is execute; then daemons="$daemons STARTD"; fi
    rm -f /etc/condor/config.d/*.config
    cat >/etc/condor/config.d/00-lab.config <<-END
	ENABLE_KERNEL_TUNING = False
	PREEN =
	ENABLE_IPV6 = False
	NETWORK_INTERFACE = $LAB_ADDRESS
	UID_DOMAIN = $domain
	FILESYSTEM_DOMAIN = $domain
	DEFAULT_DOMAIN_NAME = $domain
	DEFAULT_USERLOG_FORMAT_OPTIONS = ISO_DATE SUB_SECOND
	ALL_DEBUG = D_SUB_SECOND
	END
    write_pool >/etc/condor/config.d/50-pool.config
    {
        echo "DAEMON_LIST = $daemons"
        if is execute; then write_slots; fi
        if is manager; then
            printf '%s\n' "NEGOTIATOR_INTERVAL = ${LAB_CYCLE:-1}" "NEGOTIATOR_CYCLE_DELAY = 0" "NEGOTIATOR_MIN_INTERVAL = 0"
        fi
    } >/etc/condor/config.d/90-lab.config
}

# Printed by the gateway, which knows the pool. A host that does not have it gets what it prints elsewhere.
write_pool() {
    if is manager; then
        condor-gateway condor-config --role manager -f $config --node "$LAB_NODE"
    elif is submit; then
        pool_entity submit
    else
        pool_entity execute
    fi
}

pool_entity() {
    if runs_gateway; then condor-gateway condor-config --role "$1" -f $config; else cat "$work/$1.config"; fi
}

write_slots() {
    slots=${LAB_SLOTS:-4}
    cat <<-END
	NUM_CPUS = $slots
	MEMORY = $((slots * 64))
	NUM_SLOTS = $slots
	NUM_SLOTS_TYPE_1 = $slots
	SLOT_TYPE_1 = cpus=1, memory=64
	SLOT_TYPE_1_PARTITIONABLE = False
	START = True
	SUSPEND = False
	PREEMPT = False
	KILL = False
	WANT_SUSPEND = False
	RUNBENCHMARKS = False
	STARTD_COMPUTE_AVAIL_STATS = False
	CLAIM_WORKLIFE = 0
	END
}

# A processor that is imitated takes half a minute to start Python. Then a watchdog for a machine of today ends what is
# only slow, and the gateway, which soon loses its place before all others there, must not wait for HTCondor's daemons.
give_time() {
    mkdir -p /etc/systemd/system/condor-gateway.service.d
    printf '[Service]\nWatchdogSec=10min\nNice=-15\nCPUWeight=1000\n' >/etc/systemd/system/condor-gateway.service.d/lab.conf
    systemctl daemon-reload
}

start_condor() {
    rm -f /etc/systemd/system/condor.service # masked until now
    systemctl enable --quiet condor.service
    systemctl restart --no-block condor.service
}

[ "$(id -u)" = 0 ] || fail "this must be run as root"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -C "$work" -xf "$payload"
interface=${LAB_INTERFACE:-$(second_interface)}

set_name
set_address
if [ -f "$work/ssh_key.pub" ] && ! grep -qsF "$(cat "$work/ssh_key.pub")" /root/.ssh/authorized_keys; then
    install -d -m 0700 /root/.ssh
    cat "$work/ssh_key.pub" >>/root/.ssh/authorized_keys
fi
id physicist >/dev/null 2>&1 || useradd --create-home --shell /bin/bash physicist
install_packages
if runs_gateway; then write_gateway; fi
if runs_condor; then
    write_condor
    start_condor
fi
if runs_gateway; then
    if [ -n "${LAB_LEASE:-}" ]; then give_time; fi
    systemctl restart --no-block condor-gateway.service
fi
say "$LAB_NODE is $LAB_ROLES"
