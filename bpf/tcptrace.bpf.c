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

/* Bytes waiting in a ring at which the reader is woken. */
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

/*
 * Whether memory may be read at any address, as minisocks and requests are by their
 * timers: not where the kernel is locked down for confidentiality. Without it there are
 * only transitions.
 */
const volatile bool reads = true;
/* Nanoseconds of a jiffy, by which timers are set. */
const volatile __u64 tick = 0;
/* Whether the kernel gives a reason for a reset, and our numbers for its. */
const volatile bool has_reset_reasons = false;
const volatile __u8 reset_reasons[64] = {};

/* Where in the kernel a minisock is ended, and what that means. */
#define ENDERS 24
#define ENDED_BY_SEGMENT 255
const volatile struct {
	__u64 from, to; /* code of a function */
	__u64 end;      /* enum end_reason, or ENDED_BY_SEGMENT; 0: not in use */
} enders[ENDERS] = {};

/*
 * The handlers of the timers of minisocks and requests. They are learnt from a
 * connection that the loader makes to itself, which also shows that the timers
 * are seen; 0: not followed.
 */
__u64 minisock_handler, request_handler;
/*
 * Whether the transitions are seen. Where they are not, a handshake that becomes a
 * connection would seem to come to nothing, and no minisock is found by its socket.
 */
bool attached;
/* The connection: cookie of its client, port of its listener; 0: none any more. */
__u64 learn_cookie;
__u16 learn_port;

/* When a minisock last was not followed, for want of room or time; 0: never. */
__u64 unfollowed_at;

/*
 * Whether steps whose verdict needs no evidence are counted here, not sent; which, as
 * EDGE_ bits; how many tallies there are, and bounds between the bins of the times.
 */
const volatile bool counting = false;
const volatile __u8 edges[STATES][STATES] = {};
const volatile __u32 tallies_used = 0;
const volatile __u32 bounds_used = 0;

/* See suspended(). */
__u64 ahead_least;

/* Whether transitions are traced, not only sockets walked. */
const volatile bool tracing = true;
/* Bytes waiting in a ring at which a walk waits for the reader. */
const volatile __u32 walk_bytes = 1 << 22;
/* The number of the present walk, and the thread that walks; 0: none. */
__u32 walk;
__u64 walker;

/* ---- maps ---- */

struct ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
};

/*
 * By CPU, as CPUs that write to one ring wait for each other. Made by the loader; CPUs
 * that come later share those of others.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct ring);
} rings SEC(".maps");

/* Rung where a ring fills: what the reader waits for. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 12);
} bell SEC(".maps");

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
	bool sent;    /* the last step was */
	bool pending; /* it was sent without the port, which was not assigned yet */
	__u8 reset;   /* reason of a reset sent, before CLOSE; 0: none */
	bool bounded; /* `entered` is not when it was, but it was in the state by then */
	bool counted; /* steps since the last record were counted, not sent */
	__u8 role;    /* enum role */
	struct owner owner;
	/* What the last walk over the files found. */
	struct owner holder; /* a process that holds it, the owner if that does */
	__s32 fd;            /* by this */
	__u32 holders;       /* file descriptors for it */
	__u32 walk;          /* number of the walk; 0: none */
	__u32 tid;           /* thread that was counted last, */
	__u64 files;         /* and its table of files, which others may share */
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

struct bounds {
	__u64 at[BINS]; /* in order, then the highest number */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bounds);
} bounds SEC(".maps");

/*
 * Those of set_state, then those of set_state_again: neither interrupts itself. Sized
 * by the loader when used.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tally);
} tallies SEC(".maps");

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

/*
 * A minisock takes a connection over from its socket, which goes to CLOSE while
 * the connection is in TIME_WAIT, or still in FIN_WAIT_2. Its life is its timer.
 */
struct minisock {
	struct event last; /* time 0: not joined with its socket yet, only `to` is known */
	__u64 address;
	__u64 entered; /* when last.to was; 0: not seen; before it is joined, when it was made */
	__u64 expires; /* of its timer, at first */
	__u64 fin;     /* when a FIN came that was seen only by its retransmission */
	bool bounded;  /* as in struct history */
	__u8 pad[7];
};

/*
 * The socket's, copied by tcp_time_wait. A socket that was connected again may
 * leave a second minisock with its cookie.
 */
struct minisock_key {
	__u64 cookie;
	__u32 snd_nxt;
	__u32 pad;
};

/* Sized by the loader, as the next. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct minisock_key);
	__type(value, struct minisock);
} minisocks SEC(".maps");

/* The network namespaces of the sockets that processes hold, by inode. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 14);
	__type(key, __u32);
	__type(value, __u8);
} spaces SEC(".maps");

/*
 * What happened last on this CPU. Ending, expiring and being set again all begin
 * with timer_cancel, and the next steps follow at once on the same CPU, with
 * nothing between that touches a timer of the kind.
 */
struct moment {
	struct minisock minisock; /* just cancelled; address 0: none */
	struct minisock_key key;  /* its */
	__u64 expires;            /* of its timer then */
	__u64 request;            /* timer of a request, just cancelled; 0: none */
	__u32 isn;                /* tells the request from a later one at its address */
	__u32 refused;            /* ports of a segment that a listener answered by a reset */
	__u32 refused_ack;        /* what it acknowledges; 0: nothing */
	__u64 refused_at;
	__u64 born;       /* when a child was, whose request is still to go; 0: none */
	__u32 born_ports; /* its; 0: it has none yet */
	__u32 accepted;   /* ports of the request that became a child */
	__u64 started;    /* and when its handshake began; 0: not known */
	__u64 reset_by;   /* cookie of a minisock that sent a reset */
	__u64 taken;      /* the socket whose step set_state took last; 0: set_state_again knows */
	__u8 taken_from, taken_to;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct moment);
} moments SEC(".maps");

/* ---- helpers ---- */

static __always_inline void count(__u32 what, __s64 n)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &what);

	if (counter)
		__sync_fetch_and_add(counter, n); /* the two programs may nest */
}

static __always_inline struct moment *this_moment(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&moments, &zero);
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

static __always_inline bool is_unspecified(const __u8 *addr)
{
	const __u32 *words = (const __u32 *)addr;

	return !words[0] && !words[1] && !words[2] && !words[3];
}

static __always_inline bool is_v4_mapped(const __u8 *addr)
{
	const __u32 *words = (const __u32 *)addr;

	return !words[0] && !words[1] && words[2] == bpf_htonl(0xffff);
}

/* False only where the wire's family is known and another one is wanted. */
static __always_inline bool family_passes(const struct event *e)
{
	if (is_unspecified(e->laddr) && is_unspecified(e->raddr))
		return true;
	if (is_v4_mapped(e->laddr) || is_v4_mapped(e->raddr))
		return filter_family == AF_INET;
	return filter_family == AF_INET6;
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
static __always_inline bool ports_pass(const struct event *e)
{
	__u32 lport = e->lport, rport = e->rport;
	__u8 *local = bpf_map_lookup_elem(&ports, &lport);
	__u8 *remote = bpf_map_lookup_elem(&ports, &rport);
	bool listens = e->to == TCP_LISTEN || (e->from == TCP_LISTEN && e->to == TCP_CLOSE);
	bool may_come = !rport && !listens;

	if (!local || !remote)
		return true;
	if (filter_ports & PORT_LOCAL && lport && !(*local & PORT_LOCAL))
		return false;
	if (filter_ports & PORT_REMOTE && !may_come && !(*remote & PORT_REMOTE))
		return false;
	return !(filter_ports & PORT_EITHER) || !lport || may_come ||
	       (*local | *remote) & PORT_EITHER;
}

/* Needs ends, netns and cgroup of the event. */
static __always_inline bool passes(const struct event *e)
{
	if (filter_family && !family_passes(e))
		return false;
	if (filter_netns && e->netns != filter_netns)
		return false;
	if (filter_cgroups && !bpf_map_lookup_elem(&cgroups, &e->cgroup))
		return false;
	return !filter_ports || ports_pass(e);
}

/*
 * The running task owns the socket only while it is inside a call on it: then,
 * and only then, the socket's lock is owned (include/net/sock.h,
 * sock_owned_by_user). In a softirq the task is whoever was interrupted. A walk
 * owns the lock as well, and may find work that waited for it.
 */
static __always_inline bool in_call(struct sock *sk)
{
	return sk->sk_lock.owned && bpf_get_current_pid_tgid() != walker;
}

static __always_inline void fill_comm(struct owner *owner, const struct task_struct *leader)
{
	const __u64 *from = (const __u64 *)leader->comm;
	__u64 comm[] = {from[0], from[1]};

	_Static_assert(sizeof(comm) == sizeof(owner->comm), "the name of a task");
	__builtin_memcpy(owner->comm, comm, sizeof(comm));
}

static __always_inline void learn_owner(struct owner *owner, __u8 source)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();

	/* A kernel thread that drops the last reference did not use the socket. */
	if (source == OWNER_CLOSE && task->flags & PF_KTHREAD)
		return;
	owner->pid = bpf_get_current_pid_tgid() >> 32;
	owner->uid = bpf_get_current_uid_gid();
	owner->source = source;
	fill_comm(owner, task->group_leader);
}

/* Whether no process is known to have worked on the socket itself. */
static __always_inline bool is_inherited(const struct owner *owner, __u8 state)
{
	return owner->source == OWNER_NONE ||
	       (owner->source == OWNER_LISTEN && state != TCP_LISTEN);
}

static __always_inline void update_owner(struct history *h, struct sock *sk, __u8 from, __u8 to)
{
	bool inherited = is_inherited(&h->owner, from);

	if (inherited && h->holders)
		h->owner = h->holder;
	/* Who destroys it (tcp_abort) is in a call on it, too, and did not use it. */
	if (!in_call(sk) || (to == TCP_CLOSE && sk->sk_err == ECONNABORTED))
		return;
	if (to == TCP_SYN_SENT)
		learn_owner(&h->owner, OWNER_CONNECT);
	else if (to == TCP_LISTEN)
		learn_owner(&h->owner, OWNER_LISTEN);
	else if (inherited)
		learn_owner(&h->owner,
		            sk->sk_shutdown & SEND_SHUTDOWN ? OWNER_CLOSE : OWNER_ACCEPT);
}

/* Returns when `from` was entered, 0 where that was not seen. */
static __always_inline __u64 remember(struct history *h, __u8 from, __u8 to, __u64 now,
                                      bool *bounded)
{
	__u64 entered;

	if (from == TCP_LISTEN && to == TCP_SYN_RECV) {
		/* A listener never enters SYN_RECV: this is its clone, new born. */
		h->generation = 0;
		h->seq = 0;
		h->entered = 0;
		h->bounded = false;
		h->holders = 0;
		h->counted = false;
		h->role = ROLE_PASSIVE;
		if (h->owner.source != OWNER_NONE)
			h->owner.source = OWNER_LISTEN;
	} else if (h->state != from) {
		/* Seen before, but not its last step: that is a hole. */
		if (h->state)
			h->seq++;
		h->entered = 0;
		h->bounded = false;
	}
	if (from == TCP_CLOSE && to != TCP_CLOSE && h->state) {
		h->generation++;
		h->seq = 0;
		h->owner.source = OWNER_NONE;
		h->counted = false;
		h->role = ROLE_NONE;
	}
	if (from == TCP_CLOSE && to == TCP_SYN_SENT)
		h->role = ROLE_ACTIVE;
	entered = h->entered;
	*bounded = h->bounded;
	if (from != to) {
		h->entered = now;
		h->bounded = false;
	}
	if (to != TCP_CLOSE)
		h->reset = 0; /* it did not end by that */
	h->state = to;
	h->stayed = from == to;
	return entered;
}

/* Whether set_state has taken this step already. */
static __always_inline bool taken(struct sock *sk, __u8 from, __u8 to)
{
	struct moment *m = this_moment();
	struct history *h;
	bool stayed;

	if (m && m->taken == (__u64)sk && m->taken_from == from && m->taken_to == to) {
		m->taken = 0;
		return true; /* the usual way, for which the history need not be found */
	}
	h = bpf_sk_storage_get(&histories, sk, NULL, 0);
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

static __always_inline bool got_fin(struct sock *sk)
{
	return flag_set(sk, bpf_core_enum_value(enum sock_flags, SOCK_DONE));
}

/* Bytes that have arrived and nobody has read. */
static __always_inline __u32 unread(struct sock *sk, struct tcp_sock *tp)
{
	__u32 n = tp->rcv_nxt - tp->copied_seq;

	/* The FIN takes a sequence number that is not data. */
	return n && got_fin(sk) ? n - 1 : n;
}

static __always_inline __u16 evidence(struct sock *sk, struct tcp_sock *tp)
{
	bool orphan = flag_set(sk, bpf_core_enum_value(enum sock_flags, SOCK_DEAD));
	__u16 flags = 0;

	if (in_call(sk))
		flags |= EVENT_LOCAL;
	if (orphan)
		flags |= EVENT_ORPHAN;
	else if (!sk->sk_socket)
		flags |= EVENT_UNACCEPTED;
	if (flag_set(sk, bpf_core_enum_value(enum sock_flags, SOCK_LINGER)) && !sk->sk_lingertime)
		flags |= EVENT_LINGER0;
	if (unread(sk, tp))
		flags |= EVENT_UNREAD;
	if (tp->linger2 < 0)
		flags |= EVENT_LINGER2;
	if (got_fin(sk))
		flags |= EVENT_PEER_FIN;
	return flags;
}

/* Where there is no peer, the address of one that the socket had before may be left. */
static __always_inline void fill_ends(struct event *e, struct sock_common *skc, __u16 lport)
{
	if (skc->skc_family == AF_INET6) {
		set_v6(e->laddr, &skc->skc_v6_rcv_saddr);
		if (skc->skc_dport)
			set_v6(e->raddr, &skc->skc_v6_daddr);
	} else {
		set_v4(e->laddr, skc->skc_rcv_saddr);
		set_v4(e->raddr, skc->skc_dport ? skc->skc_daddr : 0);
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
	return filter_ports && from == TCP_CLOSE && (to == TCP_SYN_SENT || to == TCP_LISTEN) &&
	       !lport;
}

static __always_inline void fill_history(struct event *e, const struct history *h)
{
	e->generation = h->generation;
	e->seq = h->seq;
	e->pid = h->owner.pid;
	e->uid = h->owner.uid;
	e->owner_source = h->owner.source;
	e->reset = h->reset;
	e->role = h->role;
	if (h->counted)
		e->flags |= EVENT_COUNTED_BEFORE;
	__builtin_memcpy(e->comm, h->owner.comm, sizeof(e->comm));
}

static __always_inline void *this_ring(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&rings, &cpu);
}

/*
 * Waking the reader costs far more than the record, so it is woken when a ring
 * fills to wakeup_bytes and otherwise looks for itself, often enough for an idle
 * host. The band is so wide that what is sent between may not step over it.
 */
static __always_inline long output(void *record, __u64 size)
{
	void *ring = this_ring();
	__u64 waiting;
	__u8 one = 1;
	long err;

	if (!ring)
		return -1;
	err = bpf_ringbuf_output(ring, record, size, BPF_RB_NO_WAKEUP);
	waiting = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);
	if (waiting >= wakeup_bytes && waiting < wakeup_bytes + 4 * sizeof(struct snapshot))
		bpf_ringbuf_output(&bell, &one, sizeof(one), BPF_RB_FORCE_WAKEUP);
	return err;
}

static __always_inline void send(struct event *e)
{
	if (output(e, sizeof(*e)))
		count(COUNT_RINGBUF_FULL, 1);
}

/* ---- handshakes ---- */

#define SHORTLY 1000000 /* ns: longer than two steps of the kernel that follow each other */

static __always_inline __u32 ports_of_event(const struct event *e)
{
	return (__u32)e->lport << 16 | e->rport;
}

/* A request, behind an address that the verifier does not know. */
static __always_inline struct request_sock *request_of(struct timer_list *timer)
{
	return (void *)timer - bpf_core_field_offset(struct request_sock, rsk_timer);
}

/*
 * What CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC: the time suspended. An interrupt
 * between the two reads makes it seem more, so the least is right, until it jumps.
 */
static __always_inline __u64 suspended(void)
{
	const __u64 jump = 1000000;
	__u64 mono = bpf_ktime_get_ns(), ahead = bpf_ktime_get_boot_ns() - mono;

	if (ahead < ahead_least || ahead > ahead_least + jump)
		ahead_least = ahead;
	return ahead_least;
}

/*
 * When the handshake began, to a microsecond: when its first SYN-ACK was sent. 0: it
 * was not yet.
 */
static __always_inline __u64 request_started_at(struct request_sock *req, __u64 now)
{
	__u64 sent = BPF_CORE_READ((struct tcp_request_sock *)req, snt_synack);

	if (!sent)
		return 0;
	sent = sent * 1000 + suspended();
	return sent < now ? sent : now;
}

/* A child, which the request that it comes from makes room for next. */
static __always_inline void expect_request(const struct event *e)
{
	struct moment *m = this_moment();

	if (!m)
		return;
	m->started = 0;
	m->born = e->time;
	m->born_ports = e->rport ? ports_of_event(e) : 0;
}

/* Returns when the handshake of a child began, at its first step; 0: not known. */
static __always_inline __u64 take_handshake(const struct event *e)
{
	struct moment *m = this_moment();
	__u64 started;

	if (!m)
		return 0;
	m->born = 0; /* its request was cancelled before, if it has one */
	if (m->accepted != ports_of_event(e))
		return 0; /* SYN cookie or Fast Open */
	started = m->started;
	m->started = 0;
	return started;
}

/* Ends and namespace of what has no socket, behind an unchecked address. */
static __always_inline void fill_common(struct event *e, struct sock_common *skc)
{
	e->netns = BPF_CORE_READ(skc, skc_net.net, ns.inum);
	e->family = BPF_CORE_READ(skc, skc_family);
	if (e->family == AF_INET6) {
		bpf_core_read(e->laddr, sizeof(e->laddr), &skc->skc_v6_rcv_saddr);
		bpf_core_read(e->raddr, sizeof(e->raddr), &skc->skc_v6_daddr);
	} else {
		set_v4(e->laddr, BPF_CORE_READ(skc, skc_rcv_saddr));
		set_v4(e->raddr, BPF_CORE_READ(skc, skc_daddr));
	}
	e->lport = BPF_CORE_READ(skc, skc_num);
	e->rport = bpf_ntohs(BPF_CORE_READ(skc, skc_dport));
}

static __always_inline __u64 cgroup_of_request(struct request_sock *req)
{
	struct sock *listener = BPF_CORE_READ(req, __req_common.skc_listener);

	if (!bpf_core_field_exists(listener->sk_cgrp_data.cgroup))
		return 0;
	return BPF_CORE_READ(listener, sk_cgrp_data.cgroup, kn, id);
}

/* Sends a step of the handshake, from SYN_RECV. */
static __noinline int send_request(struct request_sock *req, __u8 to, __u8 end, __u16 flags)
{
	struct event e;

	__builtin_memset(&e, 0, sizeof(e));
	fill_common(&e, &req->__req_common);
	e.cgroup = cgroup_of_request(req);
	if (!passes(&e) || e.lport == learn_port)
		return 0;
	e.time = bpf_ktime_get_boot_ns();
	e.entered = request_started_at(req, e.time);
	e.source = SOURCE_REQUEST;
	e.flags = flags;
	e.from = TCP_SYN_RECV;
	e.to = to;
	e.end = end;
	if (to == TCP_CLOSE &&
	    BPF_CORE_READ(req, __req_common.skc_listener, __sk_common.skc_state) != TCP_LISTEN)
		e.end = END_LISTENER;
	send(&e);
	return 0;
}

static __noinline int request_started(struct timer_list *timer)
{
	struct request_sock *req = request_of(timer);
	struct moment *m = this_moment();

	if (!m || m->request != (__u64)timer)
		return 0;
	m->request = 0;
	if (m->isn == BPF_CORE_READ((struct tcp_request_sock *)req, snt_isn)) /* it goes on */
		send_request(req, TCP_SYN_RECV, END_NONE, EVENT_SUPERSEDES);
	return 0;
}

static __noinline int request_cancelled(struct timer_list *timer)
{
	struct request_sock *req = request_of(timer);
	__u64 now = bpf_ktime_get_boot_ns();
	struct moment *m = this_moment();
	bool refused;
	__u32 ports;

	if (!m)
		return 0;
	m->request = 0;
	ports = (__u32)BPF_CORE_READ(req, __req_common.skc_num) << 16 |
	        bpf_ntohs(BPF_CORE_READ(req, __req_common.skc_dport));
	if (m->born && now - m->born < SHORTLY && (!m->born_ports || m->born_ports == ports)) {
		m->born = 0;
		m->accepted = ports;
		m->started = request_started_at(req, now);
		return 0;
	}
	if (!attached)
		return 0;
	m->request = (__u64)timer;
	m->isn = BPF_CORE_READ((struct tcp_request_sock *)req, snt_isn);
	/*
	 * The request is dropped at once after the reset, if that was for it. It was not
	 * where the segment acknowledges something else (tcp_check_req).
	 */
	refused = m->refused == ports && now - m->refused_at < SHORTLY &&
	          (!m->refused_ack || m->refused_ack == m->isn + 1);
	m->refused = 0;
	return send_request(req, TCP_CLOSE, refused ? END_RESET_SENT : END_RESET,
	                    EVENT_PROVISIONAL);
}

/* Its end, unless the handler sets it again, having sent another SYN-ACK. */
static __noinline int request_expired(struct timer_list *timer)
{
	struct moment *m = this_moment();

	if (!m || m->request != (__u64)timer)
		return 0;
	return send_request(request_of(timer), TCP_CLOSE, END_EXPIRED,
	                    EVENT_PROVISIONAL | EVENT_SUPERSEDES);
}

/* ---- minisocks ---- */

static __always_inline struct inet_timewait_sock *minisock_of(struct timer_list *timer)
{
	return (void *)timer - bpf_core_field_offset(struct inet_timewait_sock, tw_timer);
}

static __always_inline __u64 cookie_of(struct sock_common *skc)
{
	return BPF_CORE_READ(skc, skc_cookie.counter);
}

static __always_inline struct minisock_key key_of(struct inet_timewait_sock *tw)
{
	struct minisock_key key = {
		.cookie = cookie_of(&tw->__tw_common),
		.snd_nxt = BPF_CORE_READ(tw, __tw_common.skc_tw_snd_nxt),
	};

	return key;
}

/*
 * When TIME_WAIT was entered by a FIN that reached a minisock in FIN_WAIT_2. It
 * is not seen where it leaves the timer in its bucket of the wheel, which is
 * usual soon after the beginning: only `expires` moves then.
 */
static __always_inline __u64 estimate_fin(__u64 expires, __u64 now, __u64 earliest)
{
	const __u64 length = 60000000000ULL; /* TCP_TIMEWAIT_LEN */
	__s64 left = expires - bpf_jiffies64();
	__s64 entered = now + left * (__s64)tick - length;

	return entered > (__s64)earliest ? entered : earliest;
}

static __noinline int minisock_started(struct timer_list *timer)
{
	struct inet_timewait_sock *tw = minisock_of(timer);
	struct minisock_key key = key_of(tw);
	__u8 substate = BPF_CORE_READ(tw, tw_substate);
	struct moment *moment = this_moment();
	struct minisock *m;

	if (!moment || !key.cookie) /* without a cookie nobody can have asked for it */
		return 0;
	m = &moment->minisock;
	if (m->address != (__u64)tw || moment->key.cookie != key.cookie ||
	    moment->key.snd_nxt != key.snd_nxt) {
		__builtin_memset(m, 0, sizeof(*m));
		m->address = (__u64)tw;
		m->expires = BPF_CORE_READ(timer, expires);
		m->entered = bpf_ktime_get_boot_ns(); /* until it is joined */
		m->last.to = substate;
	} else if (m->last.time) { /* it goes on */
		__u64 now = bpf_ktime_get_boot_ns();

		/* A FIN that was seen now is not the first, if the timer had moved. */
		if (m->last.to == TCP_FIN_WAIT2 && substate == TCP_TIME_WAIT && !m->fin &&
		    moment->expires != m->expires)
			m->fin = estimate_fin(moment->expires, now, m->entered);
		m->last.time = now;
		m->last.from = m->last.to;
		m->last.entered = m->entered;
		m->last.source = SOURCE_TIMEWAIT;
		m->last.flags = EVENT_SUPERSEDES;
		if (m->bounded)
			m->last.flags |= EVENT_AT_LEAST;
		if (m->last.from != substate && !m->fin) {
			m->last.to = substate;
			m->entered = now;
			m->bounded = false;
			if (m->last.seq)
				m->last.seq++;
		}
		send(&m->last);
	}
	if (bpf_map_update_elem(&minisocks, &key, m, BPF_ANY)) {
		unfollowed_at = bpf_ktime_get_boot_ns();
		count(COUNT_MINISOCKS, 1);
	}
	m->address = 0;
	return 0;
}

/* Of a minisock that was in FIN_WAIT_2 when it was last seen. */
static __always_inline __u64 time_wait_entered(const struct minisock *m,
                                               struct inet_timewait_sock *tw, __u64 now)
{
	if (m->fin)
		return m->fin;
	return estimate_fin(BPF_CORE_READ(tw, tw_timer.expires), now, m->entered);
}

static __always_inline void send_end(struct minisock *m, __u8 end, __u16 flags)
{
	struct inet_timewait_sock *tw = (void *)m->address;
	struct event e = m->last;

	e.time = bpf_ktime_get_boot_ns();
	e.entered = m->entered;
	if (e.seq)
		e.seq++;
	e.from = e.to;
	e.to = TCP_CLOSE;
	e.source = SOURCE_TIMEWAIT;
	e.end = end;
	e.error = 0;
	e.reset = 0;
	if (e.from == TCP_FIN_WAIT2 && BPF_CORE_READ(tw, tw_substate) == TCP_TIME_WAIT) {
		e.from = TCP_TIME_WAIT;
		e.entered = time_wait_entered(m, tw, e.time);
		flags |= EVENT_ESTIMATED;
	} else if (m->bounded) {
		flags |= EVENT_AT_LEAST;
	}
	e.flags = flags;
	send(&e);
}

/*
 * Whether it looks like the FIN that a young minisock in FIN_WAIT_2 waits for,
 * which sets the timer again. That is so usual that the stack is not looked at.
 */
static __always_inline bool fin_arrives(const struct minisock *m, struct inet_timewait_sock *tw)
{
	const __u64 young = 1000000000;

	return m->last.to == TCP_FIN_WAIT2 && bpf_ktime_get_boot_ns() - m->last.time < young &&
	       BPF_CORE_READ(tw, tw_substate) == TCP_TIME_WAIT &&
	       BPF_CORE_READ(tw, tw_timer.expires) == m->expires;
}

/* Who ends a minisock before its time is on the stack, so far down at most. */
#define FRAMES 10
#define STACK_WORDS 64
#define CALLERS 8

/*
 * Callers that have been found once: their return addresses, and where each lay, in
 * words from the context. Unwinding is slow, but the frames of a function have
 * always the same size: where the first address is in its place the second place is
 * that of its caller, and so on, so all together are the same callers again.
 */
struct callers {
	__u64 address[FRAMES];
	__u8 place[FRAMES];
	__u8 n; /* 0: none */
	__u8 end;
};

struct unwinding {
	struct callers known[CALLERS];
	__u32 next; /* to be replaced */
	__u64 stack[STACK_WORDS];
	__u64 address[FRAMES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct unwinding);
} unwindings SEC(".maps");

static __always_inline bool are_callers(const struct callers *c, const struct unwinding *u)
{
	int i;

	for (i = 0; i < FRAMES && i < c->n; i++)
		if (u->stack[c->place[i] & (STACK_WORDS - 1)] != c->address[i])
			return false;
	return c->n;
}

static __always_inline struct unwinding *this_unwinding(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&unwindings, &zero);
}

/*
 * The only place of an address on the stack; 0: there is none, or one of several was
 * left behind by an earlier call. Global, as the next: so the verifier looks once.
 */
__noinline int place_of(__u64 address)
{
	struct unwinding *u = this_unwinding();
	int word, place = 0;

	for (word = 1; u && word < STACK_WORDS; word++) {
		if (u->stack[word] != address)
			continue;
		if (place)
			return 0;
		place = word;
	}
	return place;
}

__noinline int end_by(__u64 address)
{
	int i;

	for (i = 0; i < ENDERS; i++)
		if (enders[i].from <= address && address < enders[i].to)
			return enders[i].end;
	return END_NONE;
}

/* Returns which end it is that the callers found by the kernel make. */
__noinline int learn_callers(void)
{
	struct unwinding *u = this_unwinding();
	int i, place, end = END_NONE;
	struct callers *c;
	bool placed = true;

	if (!u)
		return END_KILLED;
	c = &u->known[u->next++ & (CALLERS - 1)];
	c->n = 0;
	for (i = 0; i < FRAMES && !end; i++) {
		c->address[i] = u->address[i];
		place = place_of(u->address[i]);
		c->place[i] = place;
		placed = placed && place;
		end = end_by(u->address[i]);
	}
	c->end = end ? end : END_KILLED;
	if (placed)
		c->n = i;
	return c->end;
}

static __noinline int reason_of_end(void *ctx)
{
	struct unwinding *u = this_unwinding();
	int i;

	if (!u || bpf_probe_read_kernel(u->stack, sizeof(u->stack), ctx))
		return END_KILLED;
	for (i = 0; i < CALLERS; i++)
		if (are_callers(&u->known[i], u))
			return u->known[i].end;
	__builtin_memset(u->address, 0, sizeof(u->address));
	/* Not this program, its two functions, and who runs it: below the context. */
	bpf_get_stack(ctx, u->address, sizeof(u->address), 4);
	return learn_callers();
}

static __noinline int minisock_cancelled(void *ctx, struct timer_list *timer)
{
	struct inet_timewait_sock *tw = minisock_of(timer);
	struct minisock_key key = key_of(tw);
	struct moment *moment = this_moment();
	struct minisock *m;
	__u8 end;

	if (!moment)
		return 0;
	moment->minisock.address = 0;
	m = bpf_map_lookup_elem(&minisocks, &key);
	if (!m || m->address != (__u64)tw)
		return 0;
	moment->minisock = *m;
	moment->key = key;
	moment->expires = BPF_CORE_READ(timer, expires);
	bpf_map_delete_elem(&minisocks, &key);
	if (!moment->minisock.last.time) { /* its socket will not find it any more */
		if (attached)
			unfollowed_at = bpf_ktime_get_boot_ns();
		return 0;
	}
	if (moment->reset_by == key.cookie)
		end = END_RESET_SENT;
	else if (fin_arrives(&moment->minisock, tw))
		end = END_KILLED;
	else
		end = reason_of_end(ctx);
	/* A SYN for a listener; but none takes the ports in FIN_WAIT_2: data came. */
	if (end == ENDED_BY_SEGMENT)
		end = BPF_CORE_READ(tw, tw_substate) == TCP_FIN_WAIT2 ? END_RESET_SENT : END_REUSED;
	moment->reset_by = 0;
	send_end(&moment->minisock, end, EVENT_PROVISIONAL);
	return 0;
}

static __noinline int minisock_expired(struct timer_list *timer)
{
	struct moment *moment = this_moment();

	if (!moment || moment->minisock.address != (__u64)minisock_of(timer))
		return 0;
	if (moment->minisock.last.time)
		send_end(&moment->minisock, END_EXPIRED, EVENT_SUPERSEDES);
	moment->minisock.address = 0;
	return 0;
}

/* Whether the step is one at which a minisock takes over, and would be seen. */
static __always_inline bool leaves_minisock(__u8 from, __u8 to)
{
	return minisock_handler && to == TCP_CLOSE &&
	       (from == TCP_FIN_WAIT2 || from == TCP_CLOSING);
}

/* The minisock that takes over from a socket, or NULL. */
static __always_inline struct minisock *successor(const struct minisock_key *key)
{
	struct minisock *m = bpf_map_lookup_elem(&minisocks, key);

	return m && !m->last.time ? m : NULL;
}

/* Whether any minisock was followed: there was room a moment ago. */
static __always_inline bool all_followed(__u64 now)
{
	const __u64 second = 1000000000;

	return !unfollowed_at || now - unfollowed_at > second;
}

static __always_inline __u16 count_minisocks(struct event *e, struct net *net)
{
	int minisocks;

	if (!bpf_core_field_exists(net->ipv4.tcp_death_row.tw_refcount) ||
	    !bpf_core_field_exists(net->ipv4.tcp_death_row.sysctl_max_tw_buckets))
		return EVENT_SKIPPED;
	minisocks = net->ipv4.tcp_death_row.tw_refcount.refs.counter - 1;
	if (minisocks < 0) /* the namespace is going */
		return EVENT_SKIPPED;
	e->tw_count = minisocks;
	e->tw_limit = net->ipv4.tcp_death_row.sysctl_max_tw_buckets;
	return EVENT_SKIPPED | EVENT_COUNTED;
}

/* ---- counting ---- */

/* Which bin a time belongs in: the number of bounds that it has reached. */
static __always_inline __u32 bin_of(const struct bounds *b, __u64 time)
{
	__u32 step, bin = 0;

	for (step = BINS / 2; step; step /= 2)
		if (b->at[(bin + step - 1) & (BINS - 1)] <= time)
			bin += step;
	return bin & (BINS - 1);
}

/* Returns whether a step is counted, so need not be sent. */
static __always_inline bool count_step(__u8 from, __u8 to, __u64 entered, __u64 now, bool second)
{
	__u8 edge = edges[from & (STATES - 1)][to & (STATES - 1)];
	__u32 zero = 0, bin = 0, place = (edge & EDGE_TALLY) - 1;
	struct bounds *b = bpf_map_lookup_elem(&bounds, &zero);
	struct tally *t;
	__u64 time = 0;

	if (!edge || !b)
		return false;
	if (edge & EDGE_TIMED) {
		if (!entered || entered > now)
			return false;
		time = now - entered;
		bin = bin_of(b, time);
		if (bin >= bounds_used) /* longer than any bin is for */
			return false;
	}
	if (second)
		place += tallies_used;
	t = bpf_map_lookup_elem(&tallies, &place);
	if (!t)
		return false;
	if (!t->steps || time < t->min)
		t->min = time;
	if (time > t->max)
		t->max = time;
	t->sum += time;
	t->bins[bin]++;
	t->steps++;
	return true;
}

/* ---- programs ---- */

static __always_inline void fill_socket(struct event *e, struct sock *sk, struct tcp_sock *tp)
{
	e->bytes_acked = tp->bytes_acked;
	e->bytes_received = tp->bytes_received;
	if (tp->bytes_sent > tp->bytes_retrans)
		e->bytes_sent = tp->bytes_sent - tp->bytes_retrans;
	e->srtt_us = tp->srtt_us >> 3;
	e->retransmits = tp->total_retrans;
	e->error = sk->sk_err;
	e->flags = evidence(sk, tp);
	e->shutdown = sk->sk_shutdown & (SHUTDOWN_RECEIVING | SHUTDOWN_SENDING);
	if (tp->snd_una != tp->write_seq)
		e->shutdown |= SHUTDOWN_UNACKED;
}

/* Sends, before a child's first step, its birth, which was kept back. */
static __always_inline void send_birth(const struct event *step, struct history *h, __u64 born)
{
	struct event e = *step;

	e.time = born;
	e.entered = 0;
	e.flags &= ~EVENT_AT_LEAST;
	e.from = TCP_LISTEN;
	e.to = TCP_SYN_RECV;
	h->seq++;
	fill_history(&e, h);
	send(&e);
}

static __always_inline int take(struct sock *sk, __u8 from, __u8 to, bool second)
{
	bool wanted, leaves, known = false, bounded = false, countable = false;
	struct minisock *heir = NULL;
	struct minisock_key key = {};
	__u64 now, born = 0;
	struct tcp_sock *tp;
	struct moment *m;
	struct history *h;
	struct event e;

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

	__builtin_memset(&e, 0, sizeof(e));
	e.time = bpf_ktime_get_boot_ns();
	e.from = from;
	e.to = to;
	e.cgroup = cgroup_of(sk);
	e.netns = sk->__sk_common.skc_net.net->ns.inum;
	fill_ends(&e, &sk->__sk_common, local_port(sk, tp, to));
	wanted = passes(&e);

	/* Kept up for every socket: what is filtered today may pass tomorrow. */
	h = bpf_sk_storage_get(&histories, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!h && !second) {
		/* Without history the second cannot know what is taken: its turn. */
		count(COUNT_RESCUED, -1);
		return 0;
	}
	if (h) {
		m = this_moment();
		if (m && !second) {
			m->taken = (__u64)sk;
			m->taken_from = from;
			m->taken_to = to;
		}
		known = h->state == from;
		/* Not after a hole, which is to be told; nor what user space is to decide. */
		countable = counting && (known || !h->state) && !h->pending;
		e.entered = remember(h, from, to, e.time, &bounded);
		update_owner(h, sk, from, to);
		if (from == TCP_LISTEN && to == TCP_SYN_RECV) {
			/*
			 * Up to 6.14 or so a child is born before it has ends,
			 * and is named anew after that (inet_csk_clone_lock):
			 * its birth is sent with its next step.
			 */
			expect_request(&e);
			h->entered = 0;
			if (!e.rport) {
				h->born = e.time;
				return 0;
			}
		} else if (from == TCP_SYN_RECV && !e.entered) {
			e.entered = take_handshake(&e);
		}
		wanted = wanted || h->pending;
		h->pending = wanted && port_pending(from, to, e.lport);
		h->sent = wanted;
		countable = countable && wanted && !h->pending && !bounded;
		born = h->born;
		h->born = 0;
	} else {
		count(COUNT_NO_HISTORY, 1);
	}
	e.cookie = sk->__sk_common.skc_cookie.counter;
	if (!e.cookie)
		e.cookie = bpf_get_socket_cookie(sk); /* which makes it */
	if (countable && h) {
		if (born && count_step(TCP_LISTEN, TCP_SYN_RECV, 0, born, second)) {
			h->counted = true;
			born = 0;
		}
		if (!born && count_step(from, to, e.entered, e.time, second)) {
			h->counted = true;
			return 0;
		}
	}
	leaves = leaves_minisock(from, to);
	if (leaves) {
		key.cookie = e.cookie;
		key.snd_nxt = tp->snd_nxt;
		heir = successor(&key);
	}
	if (!wanted) {
		if (heir)
			bpf_map_delete_elem(&minisocks, &key);
		return 0;
	}
	fill_socket(&e, sk, tp);
	if (bounded)
		e.flags |= EVENT_AT_LEAST;
	if (h) {
		if (born)
			send_birth(&e, h, born);
		h->seq++; /* also for a record that finds no room: a hole */
		fill_history(&e, h);
		h->counted = false;
	}
	if (heir) {
		e.to = heir->last.to;
		e.flags |= EVENT_MINISOCK;
		heir->entered = e.from == e.to ? e.entered : e.time;
		heir->bounded = e.from == e.to && bounded;
		/* Its timer may run on another CPU: joined is what has a time. */
		now = e.time;
		e.time = 0;
		heir->last = e;
		e.time = now;
		barrier();
		heir->last.time = now;
		if (bpf_map_lookup_elem(&minisocks, &key) != heir) /* ended meanwhile */
			count(COUNT_MINISOCKS, 1);
	} else if (leaves && known && all_followed(e.time)) { /* the kernel made none */
		e.flags |= count_minisocks(&e, sk->__sk_common.skc_net.net);
	}
	send(&e);
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

/* Recognizes the timers of the connection that the loader makes to itself. */
static __noinline int learn(struct timer_list *timer)
{
	struct inet_timewait_sock *tw = minisock_of(timer);
	struct request_sock *req = request_of(timer);

	if (!minisock_handler && cookie_of(&tw->__tw_common) == learn_cookie &&
	    bpf_ntohs(BPF_CORE_READ(tw, __tw_common.skc_dport)) == learn_port &&
	    BPF_CORE_READ(tw, __tw_common.skc_state) == TCP_TIME_WAIT)
		minisock_handler = (__u64)timer->function;
	if (!request_handler && BPF_CORE_READ(req, __req_common.skc_num) == learn_port &&
	    BPF_CORE_READ(req, __req_common.skc_family) == AF_INET &&
	    BPF_CORE_READ(req, __req_common.skc_state) == TCP_NEW_SYN_RECV)
		request_handler = (__u64)timer->function;
	return 0;
}

/*
 * These hold the lock of the timers with interrupts off, or run in the one
 * softirq that expires them, so none of them is interrupted by itself.
 */
SEC("tp_btf/timer_start")
int BPF_PROG(timer_start, struct timer_list *timer)
{
	__u64 handler = (__u64)timer->function;

	if (learn_cookie)
		learn(timer);
	if (handler == minisock_handler)
		return minisock_started(timer);
	if (handler == request_handler)
		return request_started(timer);
	return 0;
}

SEC("tp_btf/timer_cancel")
int BPF_PROG(timer_cancel, struct timer_list *timer)
{
	__u64 handler = (__u64)timer->function;

	if (handler == minisock_handler)
		return minisock_cancelled(ctx, timer);
	if (handler == request_handler)
		return request_cancelled(timer);
	return 0;
}

SEC("tp_btf/timer_expire_entry")
int BPF_PROG(timer_expire_entry, struct timer_list *timer)
{
	__u64 handler = (__u64)timer->function;

	if (handler == minisock_handler)
		return minisock_expired(timer);
	if (handler == request_handler)
		return request_expired(timer);
	return 0;
}

/* What a child's process does first, mostly: it reads the request. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(received, struct sock *sk)
{
	struct history *h = bpf_sk_storage_get(&histories, sk, NULL, 0);

	if (h && h->owner.source == OWNER_LISTEN && h->state != TCP_LISTEN && in_call(sk))
		learn_owner(&h->owner, OWNER_ACCEPT);
	return 0;
}

/* Ports of the segment that a reset answers: own, then peer's. */
static __always_inline __u32 ports_of(const struct sk_buff *skb)
{
	__be16 ports[2] = {};

	if (skb)
		bpf_core_read(ports, sizeof(ports), skb->head + skb->transport_header);
	return (__u32)bpf_ntohs(ports[1]) << 16 | bpf_ntohs(ports[0]);
}

/* What the segment acknowledges; 0: nothing. */
static __always_inline __u32 ack_of(const struct sk_buff *skb)
{
	__be32 seqs[3] = {}; /* sequence number, acknowledgement, and what has the flags */

	if (skb)
		bpf_core_read(seqs, sizeof(seqs), skb->head + skb->transport_header + 4);
	return bpf_ntohl(seqs[2]) & 0x100000 ? bpf_ntohl(seqs[1]) : 0; /* TCP_FLAG_ACK */
}

/*
 * Before the socket goes to CLOSE the reason waits for that; after it, which is
 * usual, it is sent after the transition.
 */
SEC("tp_btf/tcp_send_reset")
int send_reset(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	struct moment *m = this_moment();
	__u8 reason = RESET_UNSPECIFIED;
	struct history *h;
	struct event e;

	if (!sk || !m)
		return 0;
	if (has_reset_reasons && ctx[2] < 64)
		reason = reset_reasons[ctx[2] & 63];
	if (sk->__sk_common.skc_state == TCP_TIME_WAIT) {
		m->reset_by = sk->__sk_common.skc_cookie.counter;
		return 0;
	}
	if (sk->__sk_common.skc_state == TCP_LISTEN) {
		if (!reads)
			return 0;
		m->refused = ports_of((const struct sk_buff *)ctx[1]);
		m->refused_ack = ack_of((const struct sk_buff *)ctx[1]);
		m->refused_at = bpf_ktime_get_boot_ns();
		return 0;
	}
	h = bpf_sk_storage_get(&histories, sk, NULL, 0);
	if (!h)
		return 0;
	if (h->state != TCP_CLOSE) {
		h->reset = reason;
		return 0;
	}
	if (!h->sent)
		return 0;
	__builtin_memset(&e, 0, sizeof(e));
	e.time = bpf_ktime_get_boot_ns();
	e.cookie = bpf_get_socket_cookie(sk);
	e.generation = h->generation;
	e.source = SOURCE_RESET;
	e.reset = reason;
	e.from = TCP_CLOSE;
	e.to = TCP_CLOSE;
	send(&e);
	return 0;
}

/* ---- walks over what is there ---- */

/* Nanoseconds on a timer; 0: it is due. */
static __always_inline __u64 time_left(struct timer_list *timer)
{
	__s64 left = BPF_CORE_READ(timer, expires) - bpf_jiffies64();

	return left > 0 ? left * tick : 0;
}

static __always_inline bool is_set(struct timer_list *timer)
{
	return BPF_CORE_READ(timer, entry.pprev);
}

/*
 * Whether connect has sent no SYN: with TCP_FASTOPEN_CONNECT it waits for data, and what
 * a SYN would have set is of an earlier connection.
 */
static __always_inline bool syn_waits(struct tcp_sock *tp, __u8 state)
{
	return state == TCP_SYN_SENT && !tp->packets_out;
}

/* A time by which the socket was in its state, at the latest now. */
static __always_inline __u64 entered_by(struct tcp_sock *tp, __u8 state, __u64 now)
{
	struct inet_connection_sock *icsk = (struct inet_connection_sock *)tp;
	__u64 mono = bpf_ktime_get_ns(), still;
	__u32 ticks;
	int i;

	if (state == TCP_LISTEN || syn_waits(tp, state))
		return now;
	if (state == TCP_SYN_SENT && tp->retrans_stamp) {
		__u64 tick_ns = 1000000;

		if (bpf_core_field_exists(tp->tcp_usec_ts) &&
		    BPF_CORE_READ_BITFIELD(tp, tcp_usec_ts))
			tick_ns = 1000;
		ticks = mono / tick_ns - tp->retrans_stamp;
		if (!ticks)
			return now;
		still = (ticks - 1) * tick_ns; /* each end is rounded down */
		return still < now ? now - still : now;
	}
	/* Each state begins by sending or receiving, which sets this (tcp_mstamp_refresh). */
	still = tp->tcp_mstamp * 1000;
	if (!still || still > mono)
		return now;
	still = mono - still;
	/*
	 * If nothing but the FIN is unanswered it is what was sent again, by a timer
	 * that doubles each time: the waits so far were half, a quarter … of the next.
	 * Not in CLOSING, to which they may be from FIN_WAIT1.
	 */
	if ((state == TCP_FIN_WAIT1 || state == TCP_LAST_ACK) && tp->write_seq - tp->snd_una == 1)
		for (i = 1; i <= 16 && i <= icsk->icsk_retransmits; i++)
			still += (icsk->icsk_rto >> i) * tick;
	return still < now ? now - still : now;
}

/* The history of a socket that the walk has come to, brought up to date. */
static __always_inline struct history *meet(struct sock_common *skc, struct tcp_sock *tp,
                                            __u8 state, __u64 now)
{
	struct history *h = bpf_sk_storage_get(&histories, skc, NULL,
	                                       tracing ? BPF_SK_STORAGE_GET_F_CREATE : 0);

	if (!h)
		return NULL;
	if (h->state != state) {
		if (h->state)
			h->seq++; /* its last step was not seen: a hole */
		h->state = state;
		h->entered = 0;
	}
	if (!h->entered) {
		h->entered = entered_by(tp, state, now);
		h->bounded = true;
	}
	/* Who holds it is sure; who once called connect may have passed it on. */
	if (h->holders && h->walk == walk &&
	    (is_inherited(&h->owner, state) || h->holder.pid != h->owner.pid))
		h->owner = h->holder;
	return h;
}

static __noinline int send_snapshot(struct snapshot *s)
{
	/* 1: the walk comes to it again. */
	return output(s, sizeof(*s)) ? 1 : 0;
}

static __always_inline void fill_minisock(struct event *e, struct inet_timewait_sock *tw)
{
	struct sock_common *skc = &tw->__tw_common;

	fill_common(e, skc);
	e->cookie = cookie_of(skc);
	e->to = BPF_CORE_READ(tw, tw_substate);
}

static __noinline int walk_socket(struct sock_common *skc)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(skc);
	struct sock *sk = (struct sock *)tp;
	struct inet_connection_sock *icsk = (struct inet_connection_sock *)tp;
	struct snapshot s;
	struct history *h;
	__u8 state;

	if (!tp || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	__builtin_memset(&s, 0, sizeof(s));
	state = skc->skc_state;
	s.event.time = bpf_ktime_get_boot_ns();
	s.event.source = SOURCE_SNAPSHOT;
	s.event.from = state;
	s.event.to = state;
	s.event.cgroup = cgroup_of(sk);
	s.event.netns = skc->skc_net.net->ns.inum;
	fill_ends(&s.event, skc, skc->skc_num);
	h = meet(skc, tp, state, s.event.time);
	if (!passes(&s.event))
		return 0;
	fill_socket(&s.event, sk, tp);
	s.event.cookie = bpf_get_socket_cookie(skc);
	s.event.entered = h ? h->entered : entered_by(tp, state, s.event.time);
	if (!h || h->bounded)
		s.event.flags |= EVENT_AT_LEAST;
	if (h) {
		fill_history(&s.event, h);
		h->counted = false;
		h->sent = true;
		if (h->walk == walk) {
			s.holders = h->holders;
			s.fd = h->fd;
		}
	}
	if (state == TCP_LISTEN) {
		s.recv_queue = sk->sk_ack_backlog;
		s.send_queue = sk->sk_max_ack_backlog;
	} else {
		if (state != TCP_SYN_SENT)
			s.recv_queue = unread(sk, tp);
		if (!syn_waits(tp, state))
			s.send_queue = tp->write_seq - tp->snd_una;
		s.unanswered = icsk->icsk_retransmits + icsk->icsk_probes_out;
		if (tp->rcv_tstamp)
			s.silent = (__u32)((__u32)bpf_jiffies64() - tp->rcv_tstamp) * tick;
	}
	return send_snapshot(&s);
}

/*
 * Whether the walk begins to follow what it finds: what came after the programs were
 * attached is followed already, or has just gone.
 */
static __always_inline bool follows(void)
{
	return tracing && walk == 1;
}

static __noinline int walk_minisock(struct sock_common *skc)
{
	const __u64 soon = 10000000; /* for its socket to be closed */
	struct inet_timewait_sock *tw = (struct inet_timewait_sock *)skc;
	struct minisock_key key = key_of(tw);
	__u64 now = bpf_ktime_get_boot_ns();
	struct minisock fresh, *m;
	struct snapshot s;

	if (tracing && !minisock_handler)
		return 0; /* nobody would see its end */
	__builtin_memset(&s, 0, sizeof(s));
	__builtin_memset(&fresh, 0, sizeof(fresh));
	m = bpf_map_lookup_elem(&minisocks, &key);
	if (m && !m->last.time) {
		if (now - m->entered < soon)
			return 0;
		m = NULL; /* from before, but its timer has been set since */
	}
	if (!m) {
		m = &fresh;
		m->address = (__u64)tw;
		m->bounded = true;
		fill_minisock(&m->last, tw);
		m->expires = BPF_CORE_READ(tw, tw_timer.expires);
		m->last.time = now;
		m->entered = now;
		if (m->last.to == TCP_TIME_WAIT)
			m->entered = estimate_fin(m->expires, now, 1) + tick; /* by then */
		if (m->entered > now)
			m->entered = now;
		if (!passes(&m->last) || (tracing && !follows()))
			return 0;
		if (tracing && bpf_map_update_elem(&minisocks, &key, m, BPF_ANY)) {
			count(COUNT_MINISOCKS, 1);
			return 0;
		}
		if (tracing && !is_set(&tw->tw_timer)) { /* it ends just now */
			bpf_map_delete_elem(&minisocks, &key);
			return 0;
		}
	}
	s.event = m->last;
	s.event.time = now;
	s.event.source = SOURCE_SNAPSHOT;
	s.event.from = s.event.to;
	s.event.flags = EVENT_MINISOCK;
	s.event.entered = m->entered;
	s.event.error = 0;
	s.event.reset = 0;
	if (s.event.to == TCP_FIN_WAIT2 && BPF_CORE_READ(tw, tw_substate) == TCP_TIME_WAIT) {
		s.event.from = TCP_TIME_WAIT;
		s.event.to = TCP_TIME_WAIT;
		s.event.entered = time_wait_entered(m, tw, now);
		s.event.flags |= EVENT_ESTIMATED;
		m->fin = s.event.entered; /* its end is to say the same */
	} else if (m->bounded) {
		s.event.flags |= EVENT_AT_LEAST;
	}
	s.left = time_left(&tw->tw_timer);
	return send_snapshot(&s);
}

static __noinline int walk_request(struct sock_common *skc)
{
	struct request_sock *req = (struct request_sock *)skc;
	__u64 cookie = bpf_get_socket_cookie(skc);
	struct snapshot s;

	__builtin_memset(&s, 0, sizeof(s));
	fill_common(&s.event, skc);
	s.event.time = bpf_ktime_get_boot_ns();
	s.event.cgroup = cgroup_of_request(req);
	s.event.cookie = cookie;
	s.event.source = SOURCE_SNAPSHOT;
	s.event.from = TCP_SYN_RECV;
	s.event.to = TCP_SYN_RECV;
	s.event.flags = EVENT_REQUEST;
	s.event.entered = request_started_at(req, s.event.time);
	if (!s.event.entered) {
		s.event.entered = s.event.time;
		s.event.flags |= EVENT_AT_LEAST;
	}
	s.unanswered = BPF_CORE_READ_BITFIELD_PROBED(req, num_timeout);
	s.left = time_left(&req->rsk_timer);
	if (!passes(&s.event) || (learn_port && s.event.lport == learn_port))
		return 0;
	return send_snapshot(&s);
}

/* Sees every socket, minisock and handshake of one network namespace. */
SEC("iter/tcp")
int walk_sockets(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	void *ring = this_ring();

	if (!skc || !ring)
		return 0;
	if (bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) > walk_bytes)
		return 1; /* again, when the reader has caught up */
	walker = bpf_get_current_pid_tgid();
	switch (skc->skc_state) {
	case TCP_TIME_WAIT:
		if (!reads)
			return 0;
		bpf_get_socket_cookie(skc); /* which joins it with its end */
		return walk_minisock(skc);
	case TCP_NEW_SYN_RECV:
		return reads ? walk_request(skc) : 0;
	}
	return walk_socket(skc);
}

/* Sees every file of every process: which of them hold sockets, and which. */
SEC("iter/task_file")
int walk_files(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct owner holder = {};
	struct history *h;
	struct sock *sk;
	__u8 one = 1;
	__u32 netns;

	if (!task || !file)
		return 0;
	/* It holds the file meanwhile, so that it may be the one that closes it at last. */
	walker = bpf_get_current_pid_tgid();
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	netns = sk->__sk_common.skc_net.net->ns.inum;
	if (!bpf_map_lookup_elem(&spaces, &netns))
		bpf_map_update_elem(&spaces, &netns, &one, BPF_ANY);
	h = bpf_sk_storage_get(&histories, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!h)
		return 0;
	if (h->walk != walk) {
		h->walk = walk;
		h->holders = 0;
	} else if (h->files == (__u64)task->files && h->tid != task->pid) {
		return 0; /* the same descriptor: the iterator knows only leaders that live */
	}
	h->files = (__u64)task->files;
	h->tid = task->pid;
	holder.pid = task->tgid;
	if (h->holders == 0 || (holder.pid == h->owner.pid && h->holder.pid != holder.pid)) {
		holder.uid = task->cred->uid.val;
		holder.source = OWNER_SNAPSHOT;
		fill_comm(&holder, task->group_leader);
		h->holder = holder;
		h->fd = ctx->fd;
	}
	barrier(); /* who sees the number may take the holder */
	h->holders++;
	return 0;
}
