//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Streams every TCP state transition of the host through a ring buffer.
 */
#include "kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#include "event.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* ---- configuration: constants after loading, so what is unused is dead code ---- */

/* Bytes waiting in the ring at which the reader is woken. */
const volatile __u32 wakeup_bytes = 1 << 20;
/* AF_INET or AF_INET6 on the wire; 0: both. */
const volatile __u16 filter_family = 0;
/* Inode of a network namespace; 0: all. */
const volatile __u32 filter_netns = 0;
const volatile bool filter_cgroups = false;
/* The enum port_filter bits in use; each must be met. */
const volatile __u8 filter_ports = 0;

enum port_filter {
	PORT_LOCAL = 1 << 0,
	PORT_REMOTE = 1 << 1,
	PORT_EITHER = 1 << 2,
};

/* ---- maps ---- */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
	__type(value, struct event);
} events SEC(".maps");

struct owner {
	__u32 pid;
	__u32 uid;
	__u8 comm[16];
	__u8 source; /* enum owner_source */
};

/* What is remembered of a socket between two transitions. */
struct history {
	__u64 entered; /* when `state` was entered; 0: not seen */
	__u32 generation;
	__u32 seq;
	__u64 born;   /* when a child was, whose birth is still to be sent; 0: none */
	__u8 state;   /* 0: nothing seen yet */
	bool stayed;  /* the last step led from the state to itself, and was taken */
	bool pending; /* it was sent without the port, which was not assigned yet */
	struct owner owner;
};

/* Cloned with the socket, so that a child knows the owner of its listener. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct history);
} histories SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* By port number, enum port_filter bits. Sized by the loader when used. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u8);
} cgroups SEC(".maps");

/* ---- helpers ---- */

static __always_inline void count(__u32 what, __s64 n)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &what);

	if (counter)
		__sync_fetch_and_add(counter, n); /* the two programs may nest */
}

static __always_inline __u64 cgroup_of(struct sock *sk)
{
	struct cgroup *cgroup;

	if (!bpf_core_field_exists(sk->sk_cgrp_data.cgroup))
		return 0;
	cgroup = sk->sk_cgrp_data.cgroup;
	return cgroup ? cgroup->kn->id : 0;
}

static __always_inline void set_v4(__u8 *to, __be32 addr)
{
	__u32 *words = (__u32 *)to;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = addr;
}

static __always_inline void set_v6(__u8 *to, struct in6_addr *addr)
{
	__u32 *words = (__u32 *)to;

	words[0] = addr->in6_u.u6_addr32[0];
	words[1] = addr->in6_u.u6_addr32[1];
	words[2] = addr->in6_u.u6_addr32[2];
	words[3] = addr->in6_u.u6_addr32[3];
}

static __always_inline bool is_v4_mapped(struct in6_addr *addr)
{
	return !addr->in6_u.u6_addr32[0] && !addr->in6_u.u6_addr32[1] &&
	       addr->in6_u.u6_addr32[2] == bpf_htonl(0xffff);
}

static __always_inline bool is_unspecified(struct in6_addr *addr)
{
	return !addr->in6_u.u6_addr32[0] && !addr->in6_u.u6_addr32[1] &&
	       !addr->in6_u.u6_addr32[2] && !addr->in6_u.u6_addr32[3];
}

/* False only where the wire's family is known and another one is wanted. */
static __always_inline bool family_passes(struct sock *sk)
{
	struct sock_common *skc = &sk->__sk_common;
	__u16 wire = AF_INET;

	if (skc->skc_family == AF_INET6) {
		if (is_unspecified(&skc->skc_v6_daddr) && is_unspecified(&skc->skc_v6_rcv_saddr))
			return true;
		if (!is_v4_mapped(&skc->skc_v6_daddr) && !is_v4_mapped(&skc->skc_v6_rcv_saddr))
			wire = AF_INET6;
	}
	return wire == filter_family;
}

/*
 * The kernel gives the port back before it says CLOSE (tcp_set_state), but
 * leaves it in inet_sport, where in turn a stale one may be found on connect.
 */
static __always_inline __u16 local_port(struct sock *sk, struct tcp_sock *tp, __u8 to)
{
	if (to == TCP_CLOSE)
		return bpf_ntohs(((struct inet_sock *)tp)->inet_sport);
	return sk->__sk_common.skc_num;
}

/* A port still 0 may become any: user space decides when it knows. */
static __always_inline bool ports_pass(struct sock *sk, __u32 lport)
{
	__u32 rport = bpf_ntohs(sk->__sk_common.skc_dport);
	__u8 *local = bpf_map_lookup_elem(&ports, &lport);
	__u8 *remote = bpf_map_lookup_elem(&ports, &rport);

	if (!lport || !rport || !local || !remote)
		return true;
	if (filter_ports & PORT_LOCAL && !(*local & PORT_LOCAL))
		return false;
	if (filter_ports & PORT_REMOTE && !(*remote & PORT_REMOTE))
		return false;
	return !(filter_ports & PORT_EITHER) || (*local | *remote) & PORT_EITHER;
}

static __always_inline bool passes(struct sock *sk, __u16 lport, __u64 cgroup)
{
	if (filter_family && !family_passes(sk))
		return false;
	if (filter_netns && sk->__sk_common.skc_net.net->ns.inum != filter_netns)
		return false;
	if (filter_cgroups && !bpf_map_lookup_elem(&cgroups, &cgroup))
		return false;
	return !filter_ports || ports_pass(sk, lport);
}

/*
 * The running task owns the socket only while it is inside a call on it: then,
 * and only then, the socket's lock is owned (include/net/sock.h,
 * sock_owned_by_user). In a softirq the task is whoever was interrupted.
 */
static __always_inline void learn_owner(struct owner *owner, __u8 source)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();

	/* A kernel thread that drops the last reference did not use the socket. */
	if (source == OWNER_CLOSE && task->flags & PF_KTHREAD)
		return;
	owner->pid = bpf_get_current_pid_tgid() >> 32;
	owner->uid = bpf_get_current_uid_gid();
	owner->source = source;
	bpf_core_read(owner->comm, sizeof(owner->comm), &task->group_leader->comm);
}

static __always_inline void update_owner(struct owner *owner, __u8 from, __u8 to)
{
	if (to == TCP_SYN_SENT)
		learn_owner(owner, OWNER_CONNECT);
	else if (to == TCP_LISTEN)
		learn_owner(owner, OWNER_LISTEN);
	else if (owner->source == OWNER_NONE ||
	         (owner->source == OWNER_LISTEN && from != TCP_LISTEN))
		learn_owner(owner, OWNER_CLOSE); /* a child's accepting process */
}

/* Returns when `from` was entered, 0 where that was not seen. */
static __always_inline __u64 remember(struct history *h, __u8 from, __u8 to, __u64 now)
{
	__u64 entered;

	if (from == TCP_LISTEN && to == TCP_SYN_RECV) {
		/* A listener never enters SYN_RECV: this is its clone, new born. */
		h->generation = 0;
		h->seq = 0;
		h->entered = 0;
	} else if (h->state != from) {
		/* Seen before, but not its last step: that is a hole. */
		if (h->state)
			h->seq++;
		h->entered = 0;
	}
	if (from == TCP_CLOSE && to != TCP_CLOSE && h->state) {
		h->generation++;
		h->seq = 0;
		h->owner.source = OWNER_NONE;
	}
	entered = h->entered;
	if (from != to)
		h->entered = now;
	h->state = to;
	h->stayed = from == to;
	return entered;
}

/* Whether set_state has taken this step already. */
static __always_inline bool taken(struct sock *sk, __u8 from, __u8 to)
{
	struct history *h = bpf_sk_storage_get(&histories, sk, NULL, 0);
	bool stayed;

	if (!h)
		return false;
	if (from != to)
		return h->state == to;
	stayed = h->stayed;
	h->stayed = false;
	return stayed;
}

static __always_inline bool flag_set(struct sock *sk, int bit)
{
	return sk->__sk_common.skc_flags >> bit & 1;
}

static __always_inline __u16 evidence(struct sock *sk, struct tcp_sock *tp)
{
	bool fin = flag_set(sk, bpf_core_enum_value(enum sock_flags, SOCK_DONE));
	bool orphan = flag_set(sk, bpf_core_enum_value(enum sock_flags, SOCK_DEAD));
	__u32 unread = tp->rcv_nxt - tp->copied_seq;
	__u16 flags = 0;

	/* The FIN takes a sequence number that is not data. */
	if (fin && unread)
		unread--;
	if (sk->sk_lock.owned)
		flags |= EVENT_LOCAL;
	if (orphan)
		flags |= EVENT_ORPHAN;
	else if (!sk->sk_socket)
		flags |= EVENT_UNACCEPTED;
	if (flag_set(sk, bpf_core_enum_value(enum sock_flags, SOCK_LINGER)) && !sk->sk_lingertime)
		flags |= EVENT_LINGER0;
	if (unread)
		flags |= EVENT_UNREAD;
	if (tp->linger2 < 0)
		flags |= EVENT_LINGER2;
	if (fin)
		flags |= EVENT_PEER_FIN;
	return flags;
}

static __always_inline void fill_ends(struct event *e, struct sock_common *skc, __u16 lport)
{
	if (skc->skc_family == AF_INET6) {
		set_v6(e->laddr, &skc->skc_v6_rcv_saddr);
		set_v6(e->raddr, &skc->skc_v6_daddr);
	} else {
		set_v4(e->laddr, skc->skc_rcv_saddr);
		set_v4(e->raddr, skc->skc_daddr);
	}
	e->lport = lport;
	e->rport = bpf_ntohs(skc->skc_dport);
	e->family = skc->skc_family;
}

/*
 * Whether the port is not assigned yet, which the socket's next step shows: that
 * is sent as well, so that user space can decide about both.
 */
static __always_inline bool port_pending(__u8 from, __u8 to, __u16 lport)
{
	return from == TCP_CLOSE && to == TCP_SYN_SENT && !lport;
}

static __always_inline void fill_history(struct event *e, const struct history *h)
{
	e->generation = h->generation;
	e->seq = h->seq;
	e->pid = h->owner.pid;
	e->uid = h->owner.uid;
	e->owner_source = h->owner.source;
	__builtin_memcpy(e->comm, h->owner.comm, sizeof(e->comm));
}

/*
 * Waking the reader costs far more than the record, so it is woken when the
 * ring fills to wakeup_bytes and otherwise looks for itself, often enough for
 * an idle host. The band is as wide as CPUs may overshoot the mark together.
 */
static __always_inline __u64 wakeup_flags(void)
{
	__u64 waiting = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);

	if (waiting >= wakeup_bytes && waiting < wakeup_bytes + 16 * sizeof(struct event))
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

static __always_inline void send(struct sock *sk, struct tcp_sock *tp, struct history *h,
                                 __u16 lport, __u64 cgroup, __u8 from, __u8 to, __u64 now,
                                 __u64 entered)
{
	struct event *e;

	if (h)
		h->seq++; /* also for a record that finds no room: a hole */
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		count(COUNT_RINGBUF_FULL, 1);
		return;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = now;
	e->cookie = bpf_get_socket_cookie(sk);
	e->entered = entered;
	e->cgroup = cgroup;
	e->bytes_acked = tp->bytes_acked;
	e->bytes_received = tp->bytes_received;
	e->netns = sk->__sk_common.skc_net.net->ns.inum;
	e->srtt_us = tp->srtt_us >> 3;
	e->retransmits = tp->total_retrans;
	e->error = sk->sk_err;
	e->flags = evidence(sk, tp);
	e->from = from;
	e->to = to;
	e->shutdown = sk->sk_shutdown;
	fill_ends(e, &sk->__sk_common, lport);
	if (h)
		fill_history(e, h);
	bpf_ringbuf_submit(e, wakeup_flags());
}

/* ---- programs ---- */

static __always_inline int take(struct sock *sk, __u8 from, __u8 to, bool second)
{
	__u64 now, cgroup, entered = 0;
	struct history *h;
	struct tcp_sock *tp;
	__u16 lport;
	bool wanted;

	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (second) {
		if (taken(sk, from, to))
			return 0;
		count(COUNT_RESCUED, 1);
	}
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;

	now = bpf_ktime_get_boot_ns();
	cgroup = cgroup_of(sk);
	lport = local_port(sk, tp, to);
	wanted = passes(sk, lport, cgroup);

	/* Kept up for every socket: what is filtered today may pass tomorrow. */
	h = bpf_sk_storage_get(&histories, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!h && !second) {
		/* Without history the second cannot know what is taken: its turn. */
		count(COUNT_RESCUED, -1);
		return 0;
	}
	if (h) {
		entered = remember(h, from, to, now);
		if (sk->sk_lock.owned)
			update_owner(&h->owner, from, to);
		/*
		 * Up to 6.14 or so a child is born before it has ends, and is
		 * named anew after that (inet_csk_clone_lock): its birth is
		 * sent with its next step.
		 */
		if (from == TCP_LISTEN && to == TCP_SYN_RECV && !sk->__sk_common.skc_dport) {
			h->born = now;
			return 0;
		}
		wanted = wanted || h->pending;
		h->pending = wanted && port_pending(from, to, lport);
	} else {
		count(COUNT_NO_HISTORY, 1);
	}
	if (!wanted)
		return 0;
	if (h && h->born) {
		send(sk, tp, h, lport, cgroup, TCP_LISTEN, TCP_SYN_RECV, h->born, 0);
		h->born = 0;
	}
	send(sk, tp, h, lport, cgroup, from, to, now, entered);
	return 0;
}

/*
 * The kernel does not run a program that is running on the CPU already, and a
 * softirq that interrupts it may bring hundreds of transitions. So there are
 * two, of which the second takes what the first was not run for.
 */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(set_state, struct sock *sk, int oldstate, int newstate)
{
	return take(sk, oldstate, newstate, false);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(set_state_again, struct sock *sk, int oldstate, int newstate)
{
	return take(sk, oldstate, newstate, true);
}
