/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The record of one transition, as it lies in the ring buffer and in record
 * files. Package events decodes it; a test holds both layouts together.
 * Every byte is written: padding is spelled out and zero.
 */
#ifndef TCPTRACE_EVENT_H
#define TCPTRACE_EVENT_H

/* Where an owner was learnt: the socket call that its process was in. */
enum owner_source {
	OWNER_NONE,
	OWNER_CONNECT,
	OWNER_LISTEN,   /* of the listener itself, or inherited by its child */
	OWNER_CLOSE,    /* the process that closed or shut down the socket */
	OWNER_ACCEPT,   /* the process that first worked on an accepted socket */
	OWNER_SNAPSHOT, /* a process that held it when the sockets were walked */
};

/* What the kernel knew at the transition and a verdict can rest on. */
enum event_flag {
	EVENT_LOCAL = 1 << 0,      /* inside a call of a task on this socket */
	EVENT_ORPHAN = 1 << 1,     /* no process held the socket any more */
	EVENT_LINGER0 = 1 << 2,    /* SO_LINGER with time 0: close resets */
	EVENT_UNREAD = 1 << 3,     /* received data nobody has read */
	EVENT_LINGER2 = 1 << 4,    /* TCP_LINGER2 negative: no FIN_WAIT_2 */
	EVENT_PEER_FIN = 1 << 5,   /* the peer's FIN had arrived */
	EVENT_UNACCEPTED = 1 << 6, /* a child that no process has held yet */
	EVENT_MINISOCK = 1 << 7,   /* a minisock took over, and is in `to` */
	EVENT_SKIPPED = 1 << 8,    /* none did, though all are followed */
	EVENT_COUNTED = 1 << 9,    /* tw_count and tw_limit are known */
	EVENT_ESTIMATED = 1 << 10, /* `entered` is exact to a tick of the timer only */
	/* Of timers, whose steps come in pairs; the reader makes one of them. */
	EVENT_PROVISIONAL = 1 << 11,    /* the end, unless a record supersedes it at once */
	EVENT_SUPERSEDES = 1 << 12,     /* takes the provisional one back */
	EVENT_AT_LEAST = 1 << 13,       /* `from` was entered at `entered` or before */
	EVENT_REQUEST = 1 << 14,        /* of a handshake, with the cookie its child will have */
	EVENT_COUNTED_BEFORE = 1 << 15, /* steps before it were counted, not sent */
};

/* How far a socket is with closing. */
enum event_shutdown {
	SHUTDOWN_RECEIVING = 1 << 0, /* as RCV_SHUTDOWN of the kernel */
	SHUTDOWN_SENDING = 1 << 1,   /* SEND_SHUTDOWN */
	SHUTDOWN_UNACKED = 1 << 2,   /* not all that was sent, FIN too, is acknowledged */
};

/* Which side of its connection a socket is. */
enum role {
	ROLE_NONE, /* not known: it is older than the tracer */
	ROLE_ACTIVE,
	ROLE_PASSIVE,
};

/* What a record tells of. */
enum event_source {
	SOURCE_TRACEPOINT, /* a transition of a socket */
	SOURCE_TIMEWAIT,   /* a minisock, by its timer */
	SOURCE_REQUEST,    /* a handshake that came to nothing, by its timer */
	SOURCE_RESET,      /* a reset sent just after the socket's last transition */
	SOURCE_SNAPSHOT,   /* no transition: the state, `from` and `to`, found by a walk */
};

/* Why a minisock or the request of a handshake ended. */
enum end_reason {
	END_NONE,
	END_EXPIRED,
	END_REUSED,     /* a new connection took the tuple */
	END_RESET,      /* reset by the peer */
	END_NETNS,      /* its network namespace went */
	END_KILLED,     /* otherwise, or not known how */
	END_RESET_SENT, /* refused by a reset of ours */
	END_LISTENER,   /* its listener listens no more */
};

struct event {
	__u64 time;    /* ns of CLOCK_BOOTTIME */
	__u64 cookie;  /* names the socket while the host is up; `sk:` of ss -e; 0: of a request */
	__u64 entered; /* when `from` was entered, same clock; 0: not seen */
	__u64 cgroup;  /* 0: not known */
	__u64 bytes_acked;
	__u64 bytes_received;
	__u64 bytes_sent; /* payload, each byte once */
	__u32 generation; /* earlier lives of the same socket */
	__u32 seq;        /* records of this generation so far, this one too; 0: not known */
	__u32 netns;      /* inode of the network namespace */
	__u32 pid;        /* owner; valid where owner_source is not OWNER_NONE */
	__u32 uid;        /* owner's, likewise */
	__u32 srtt_us;    /* smoothed round trip in microseconds; 0: none measured */
	__u32 retransmits;
	__s32 error;       /* sk_err: errno the kernel ended it with; 0: none */
	__u32 tw_count;    /* minisocks of the namespace, with EVENT_SKIPPED and _COUNTED */
	__u32 tw_limit;    /* net.ipv4.tcp_max_tw_buckets, likewise */
	__u8 laddr[16];    /* IPv4 as ::ffff:a.b.c.d */
	__u8 raddr[16];    /* likewise */
	__u16 lport;       /* 0: not assigned yet */
	__u16 rport;       /* 0: none yet */
	__u16 family;      /* AF_INET or AF_INET6: the socket's, not the wire's */
	__u16 flags;       /* enum event_flag */
	__u8 from;         /* TCP_* */
	__u8 to;           /* TCP_* */
	__u8 shutdown;     /* enum event_shutdown */
	__u8 owner_source; /* enum owner_source */
	__u8 comm[16];     /* owner's, of the thread group leader */
	__u8 source;       /* enum event_source */
	__u8 end;          /* enum end_reason */
	__u8 reset;        /* reason of the reset sent, as numbered by the loader; 0: none */
	__u8 role;         /* enum role */
};

/* The record of SOURCE_SNAPSHOT. */
struct snapshot {
	struct event event;
	__u64 silent;     /* ns since the last segment came; 0: not known */
	__u64 left;       /* ns on the timer of a minisock or request; 0: none */
	__u32 recv_queue; /* bytes unread; of a listener, children not accepted */
	__u32 send_queue; /* bytes not acknowledged; of a listener, its backlog */
	__u32 holders;    /* file descriptors for it, of all processes */
	__s32 fd;         /* one of them, the owner's if it has one; with holders */
	__u32 unanswered; /* times that something was sent again without an answer */
	__u32 pad;
};

/* Of a reset without a reason, or with one that the loader does not know. */
#define RESET_UNSPECIFIED 1

/* How the steps of an edge are told of: 0 by a record each, else by a tally. */
#define EDGE_TIMED (1 << 7) /* with the time in the state that they leave */
#define EDGE_TALLY (0x7f)   /* number of the tally, from 1 */

/* States are below this. */
#define STATES 16
/* One more than the bounds between the bins of times. */
#define BINS 2048

/* The steps of an edge on one CPU that were counted. */
struct tally {
	__u64 steps;
	__u64 sum; /* ns, of the times */
	__u64 min; /* ns; with steps */
	__u64 max; /* ns */
	__u64 bins[BINS];
};

/* What is counted, on each CPU. */
enum counter {
	COUNT_RINGBUF_FULL, /* records that found no room: the reader is behind */
	COUNT_NO_HISTORY,   /* records sent without history: no memory for it */
	COUNT_RESCUED,      /* transitions that set_state_again took for set_state */
	COUNT_MINISOCKS,    /* minisocks that found no room to be followed */
	COUNTERS,
};

#endif
