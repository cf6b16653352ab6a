"""Words of keepalived and of HTCondor's own HA daemons that are not words here, each with its answer.

From keepalived 2.3's keywords and HTCondor 25's parameters (`condor_config_val -dump`).
"""

import re

from gateway.config.foreign_words import CONDOR, KEEPALIVED, words

_NOTIFY = f"{KEEPALIVED}: write 'notify command' in the global section, it is told of every change"
_FIFO = f"{KEEPALIVED}: write 'notify fifo PATH' in the global section"
_SEALED = f"{KEEPALIVED}: every heartbeat is sealed with the key file"
_ANNOUNCED = f"{KEEPALIVED}: an address is announced at once, and again and again"
_HEALTHY = f"{KEEPALIVED}: a returning node never disturbs a healthy leader"
_PEER = f"{KEEPALIVED}: write 'peer NAME ADDRESS:PORT ROLE' in the peers section"
_ORDER = f"{KEEPALIVED}: the order of 'holder' and of the servers is the order of preference"
_CHECKED = f"{KEEPALIVED}: managers are checked by 'option condor-check'"
_IP = f"{KEEPALIVED}: write 'ip ADDRESS/PREFIX dev INTERFACE' in an address section"
_WAYS = f"{KEEPALIVED}: write 'forward nat' for its NAT, 'forward direct' for its DR, in the backend"
_UNIT = f"{KEEPALIVED}: write it in the systemd unit"
_UNICAST = f"{KEEPALIVED}: heartbeats go from peer to peer, never to a group"
_KERNEL = f"{KEEPALIVED}: the node makes its rules and routes itself, and removes them"

KEEPALIVED_SECTIONS = words(
    ("vrrp_instance", f"{KEEPALIVED}: write an address section and, for its peers, a peers section"),
    ("vrrp_script vrrp_track_process vrrp_track_file", _CHECKED),
    ("vrrp_sync_group", f"{KEEPALIVED}: all addresses of a cluster are held by one elected gateway"),
    ("virtual_server virtual_server_group", f"{KEEPALIVED}: write a frontend and a backend"),
    ("global_defs", f"{KEEPALIVED}: write a global section"),
    ("static_ipaddress static_routes static_rules interface_up_down_delays", _KERNEL),
    ("bfd_instance garp_group linkbeat_interfaces", _ANNOUNCED),
)

KEEPALIVED_KEYWORDS = words(
    ("{ }", f"{KEEPALIVED}: a section begins with its name, and ends where the next begins"),
    ("real_server sorry_server", f"{KEEPALIVED}: write 'server NAME ADDRESS:PORT' in a backend"),
    ("lb_kind lvs_method", _WAYS),
    ("lb_algo lvs_sched", f"{KEEPALIVED}: write 'balance elected'"),
    ("persistence_timeout persistence_granularity", f"{KEEPALIVED}: all clients go to the elected manager"),
    ("protocol", f"{KEEPALIVED}: write 'bind ADDRESS:PORT proto tcp,udp' in the frontend"),
    ("virtualhost delay_loop delay_before_retry connect_timeout TCP_CHECK HTTP_GET SSL_GET MISC_CHECK", _CHECKED),
    ("UDP_CHECK DNS_CHECK SMTP_CHECK PING_CHECK BFD_CHECK FILE_CHECK connect_port connect_ip bindto", _CHECKED),
    ("virtual_router_id", f"{KEEPALIVED}: clusters are told apart by their name and key"),
    ("router_id instance", f"{KEEPALIVED}: a node has the name of its peer line"),
    ("virtual_ipaddress virtual_ipaddress_excluded use_vmac vmac_xmit_base use_ipvlan", _IP),
    ("promote_secondaries native_ipv6 accept no_accept strict_mode old_unicast_checksum", _IP),
    ("virtual_routes virtual_rules", _KERNEL),
    ("priority", _ORDER),
    ("state", f"{KEEPALIVED}: who leads is elected"),
    ("interface default_interface", f"{KEEPALIVED}: write it after the address, as in 'ip 10.0.0.100/32 dev eth0'"),
    ("advert_int", f"{KEEPALIVED}: write 'heartbeat' in the peers section"),
    ("down_timer_adverts", f"{KEEPALIVED}: write 'lease' in the peers section"),
    ("unicast_peer unicast_src_ip unicast_ttl unicast_fault_no_peer check_unicast_src", _PEER),
    ("mcast_src_ip mcast_dst_ip", _UNICAST),
    ("authentication auth_type auth_pass auth_hmac active_key anti_replay time_window", _SEALED),
    ("nopreempt preempt preempt_delay owner_ignore_adverts", _HEALTHY),
    ("garp_extra_if garp_interval gna_interval", _ANNOUNCED),
    ("track_script track_process track_file track_bfd", _CHECKED),
    (
        "track_interface dont_track_primary track_src_ip linkbeat_use_polling",
        f"{KEEPALIVED}: a gateway whose interface is down is unfit by itself, and another one is elected",
    ),
    ("track", _CHECKED),
    ("notification_email notification_email_from smtp_server smtp_connect_timeout smtp_helo_name smtp_alert", _NOTIFY),
    ("smtp_alert_checker smtp_alert_vrrp no_email_faults no_checker_emails", _NOTIFY),
    ("notify_fifo notify_fifo_script vrrp_notify_fifo vrrp_notify_fifo_script lvs_notify_fifo", _FIFO),
    ("notify_master notify_backup notify_fault notify_stop notify_deleted notify_master_rx_lower_pri", _NOTIFY),
    ("script_user", f"{KEEPALIVED}: write 'notify user NAME' in the global section"),
    ("enable_script_security", f"{KEEPALIVED}: commands are run as 'notify user', never as root, and by no shell"),
    ("startup_script shutdown_script", _UNIT),
    (
        "sync_group_tracking_weight quorum quorum_max quorum_up quorum_down hysteresis",
        f"{KEEPALIVED}: a majority of the peers decides, write 'peer' lines",
    ),
    ("net_namespace use_pid_dir process_names umask random_seed", _UNIT),
    ("json_dump_file json_version", f"{KEEPALIVED}: use 'condor-gateway status --json'"),
    (
        "enable_dbus dbus_service_name enable_traps snmp_socket",
        f"{KEEPALIVED}: write a console section, its /metrics is for Prometheus",
    ),
    ("reload_check_config reload_file config_save_dir", f"{KEEPALIVED}: a reload always checks the file before"),
    ("higher_prio_send_advert lower_prio_no_advert version skip_check_adv_addr", _UNICAST),
    ("dynamic_interfaces use_vmac_addr vmac_addr_prefix vmac_prefix vmac_garp_intvl vrf no_virtual_ipaddress", _IP),
    ("bind_if bind_port ca certificate digest helo_name http_protocol nb_get_retry misc_dynamic misc_path", _CHECKED),
    (
        "misc_timeout max_reply_length min_reply_length payload password regex regex_max_offset regex_min_offset",
        _CHECKED,
    ),
    (
        "regex_no_match regex_options regex_stack require_reply status_code tls_compliant enable_sni sni_name url",
        _CHECKED,
    ),
    ("retry warmup delay interval init_fail script full_command fast_recovery terminate_delay fork_delay", _CHECKED),
    ("process param_match rs_init_notifies log_all_failures SSL", _CHECKED),
    ("alpha omega inhibit_on_failure ha_suspend hashed fwmark ip_family ops lthreshold uthreshold", _WAYS),
    ("persistence_engine sorry_server_inhibit sorry_server_lvs_method snmp_name", _WAYS),
    ("child_wait_time data_use_instance include_check tmp_config_directory use_symlink_paths", _UNIT),
    ("iproute_etc_dir iproute_usr_dir kernel_rx_buf_size namespace_with_ipsets net_namespace_ipvs", _UNIT),
    ("process_monitor_rcv_bufs process_monitor_rcv_bufs_force process_name set_supplementary_groups", _UNIT),
    ("startup_script_timeout shutdown_script_timeout global_tracking disable_local_igmp interfaces", _UNIT),
    ("fifo_write_vrrp_states_on_reload", _FIFO),
    (
        "dbus_no_interface_name snmp_rs_stats_update_interval snmp_vs_stats_update_interval",
        f"{KEEPALIVED}: write a console section, its /metrics is for Prometheus",
    ),
    (
        "reload_repeat reload_time_file",
        f"{KEEPALIVED}: run 'condor-gateway reload', by a timer of systemd's if it must be",
    ),
    ("state_dump_file stats_dump_file", f"{KEEPALIVED}: use 'condor-gateway status --json'"),
    ("log_unknown_vrids v3_checksum_as_v2 thread_timer_expired timer_expired_backup", _UNICAST),
    (
        "max_auto_priority min_auto_priority_delay",
        f"{KEEPALIVED}: the control process runs with SCHED_FIFO where that is permitted",
    ),
)

KEEPALIVED_PREFIXES = words(
    ("garp_ vrrp_garp_ gna_", _ANNOUNCED),
    ("notify_", _NOTIFY),
    ("enable_snmp_", f"{KEEPALIVED}: write a console section, its /metrics is for Prometheus"),
    ("nftables lvs_ ipvs_", _KERNEL),
    ("bfd_ checker_", _UNIT),
    ("vrrp_", f"{KEEPALIVED}: heartbeats are not VRRP, see the peers section"),
    ("track_", _CHECKED),
    ("unicast_", _PEER),
)

_HAD_PEERS = f"{CONDOR}: write a 'peer' line for each host, or let 'condor-gateway import-had' write the file"
_HAD_TIMES = f"{CONDOR}: write 'heartbeat' and 'lease' in the peers section"
_HAD_ITSELF = f"{CONDOR}: this program takes the place of condor_had and condor_replication, remove them there"
_CONDOR_CONFIG = f"{CONDOR}: it belongs into HTCondor's own configuration, see 'condor-gateway condor-config'"
_ACCOUNTING = f"{CONDOR}: write 'replicate accounting' in the backend"

CONDOR_KEYWORDS = words(
    ("HAD_LIST REPLICATION_LIST CENTRAL_MANAGER1 CENTRAL_MANAGER2 CENTRAL_MANAGER3", _HAD_PEERS),
    ("HAD_PORT REPLICATION_PORT HAD_USE_SHARED_PORT REPLICATION_USE_SHARED_PORT HAD_SOCKET_NAME", _HAD_PEERS),
    ("HAD_CONNECTION_TIMEOUT HAD_UPDATE_INTERVAL MASTER_HAD_BACKOFF_CONSTANT", _HAD_TIMES),
    ("HAD_USE_PRIMARY", f"{CONDOR}: the first server is preferred, and a healthy leader is not disturbed"),
    ("HAD_USE_REPLICATION STATE_FILE NEGOTIATOR_STATE_FILE MAX_TRANSFER_LIFETIME", _ACCOUNTING),
    ("REPLICATION_INTERVAL", f"{CONDOR}: 'replicate accounting' ships every record as it is written"),
    ("HAD_CONTROLLEE MASTER_NEGOTIATOR_CONTROLLER", f"{CONDOR}: write 'negotiator on-elected' in the backend"),
    ("HAD HAD_ARGS HAD_LOG HAD_DEBUG HAD_FIPS_MODE HAD_STAND_ALONE_DEBUG HAD_ENVIRONMENT", _HAD_ITSELF),
    ("REPLICATION REPLICATION_ARGS REPLICATION_LOG REPLICATION_DEBUG REPLICATION_SOCKET_NAME", _HAD_ITSELF),
    ("TRANSFERER TRANSFERER_LOG TRANSFERER_DEBUG MAX_TRANSFERER_LOG MAX_HAD_LOG MAX_REPLICATION_LOG", _HAD_ITSELF),
    ("VALID_SPOOL_FILES SPOOL", _ACCOUNTING),
    (
        "CONDOR_HOST COLLECTOR_HOST",
        f"{CONDOR}: it is the address that 'ip' names here, and belongs into HTCondor's configuration on every host",
    ),
)

ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_.]*(?==|$)")  # how HTCondor writes the name of a parameter


def condor_answer(word: str, follower: str) -> tuple[str, str] | None:
    """Return the parameter of HTCondor that a line sets, and what to say of it; None where it sets none."""
    match = ASSIGNMENT.match(word)
    if match is None:
        return None
    name = match[0].rpartition(".")[2]
    if name in CONDOR_KEYWORDS:
        return match[0], CONDOR_KEYWORDS[name]
    if word[match.end() :].startswith("=") or follower.startswith("="):
        return match[0], _CONDOR_CONFIG
    return None
