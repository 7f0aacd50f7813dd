/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel types that the programs read, and nothing else of them. The
 * loader relocates every access to the layout of the running kernel (CO-RE),
 * so order, size and the fields left out here do not matter.
 */
#ifndef TCPTRACE_KERNEL_H
#define TCPTRACE_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u16 __le16;
typedef __u32 __le32;
typedef __u64 __le64;
typedef __u32 __wsum;
typedef __u16 __sum16;
typedef _Bool bool;

#define true 1
#define false 0
#define NULL ((void *)0)

/* Of include/uapi/linux/bpf.h. */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_F_NO_PREALLOC = 1 << 0,
	BPF_F_CLONE = 1 << 9,
	BPF_SK_STORAGE_GET_F_CREATE = 1 << 0,
	BPF_RB_NO_WAKEUP = 1 << 0,
	BPF_RB_FORCE_WAKEUP = 1 << 1,
	BPF_RB_AVAIL_DATA = 0,
};

/* Of include/linux/socket.h and include/uapi/linux/in.h. */
enum {
	AF_INET = 2,
	AF_INET6 = 10,
	IPPROTO_TCP = 6,
};

/* Of include/net/tcp_states.h. */
enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_CLOSING,
	TCP_NEW_SYN_RECV, /* of a request */
};

/* Of include/net/sock.h: sending was shut, by close or shutdown. */
#define SEND_SHUTDOWN 2

/* Of include/uapi/asm-generic/errno.h: a socket destroyed, as by ss -K, ends with it. */
#define ECONNABORTED 103

/* Of include/linux/sched.h: a thread that belongs to the kernel. */
#define PF_KTHREAD 0x00200000

/* Numbered by enum sock_flags of the running kernel. */
enum sock_flags {
	SOCK_DEAD,   /* orphan: no process holds it any more */
	SOCK_DONE,   /* the peer's FIN has arrived */
	SOCK_LINGER, /* SO_LINGER is on */
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct in6_addr {
	union {
		__u32 u6_addr32[4];
	} in6_u;
};

struct ns_common {
	unsigned int inum; /* names the namespace, as in /proc/PID/ns/net */
};

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	__s64 counter;
} atomic64_t;

typedef struct {
	atomic_t refs;
} refcount_t;

struct inet_timewait_death_row {
	refcount_t tw_refcount; /* minisocks, and 1 */
	int sysctl_max_tw_buckets;
};

struct netns_ipv4 {
	struct inet_timewait_death_row tcp_death_row;
};

struct net {
	struct ns_common ns;
	struct netns_ipv4 ipv4;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct kernfs_node {
	__u64 id; /* names the cgroup: the inode number of its directory */
};

struct cgroup {
	struct kernfs_node *kn;
};

struct sock_cgroup_data {
	struct cgroup *cgroup; /* a plain pointer since 5.15 */
};

struct sock_common {
	__be32 skc_daddr;     /* peer */
	__be32 skc_rcv_saddr; /* own address */
	__be16 skc_dport;     /* peer */
	__u16 skc_num;        /* own port, host order */
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;     /* peer */
	struct in6_addr skc_v6_rcv_saddr; /* own address */
	union {
		__u32 skc_tw_snd_nxt; /* of a minisock */
	};
	atomic64_t skc_cookie; /* 0 until somebody asks for it */
	union {
		unsigned long skc_flags;   /* bits of enum sock_flags */
		struct sock *skc_listener; /* of a request */
	};
};

typedef struct {
	int owned; /* a task is inside a call on this very socket */
} socket_lock_t;

struct sock {
	struct sock_common __sk_common;
	__u32 sk_ack_backlog;     /* of a listener: children not accepted yet */
	__u32 sk_max_ack_backlog; /* and how many there may be */
	socket_lock_t sk_lock;
	struct socket *sk_socket;    /* what processes hold it by */
	int sk_err;                  /* why the kernel ended it */
	__u16 sk_protocol;           /* TCP, or MPTCP and SCTP to be passed over */
	__u8 sk_shutdown;            /* which directions were shut */
	unsigned long sk_lingertime; /* 0 with SOCK_LINGER: close sends RST */
	struct sock_cgroup_data sk_cgrp_data;
};

struct inet_sock {
	__be16 inet_sport; /* own port, kept when skc_num is given back */
};

struct inet_connection_sock {
	__u32 icsk_rto;        /* jiffies until something is sent again */
	__u8 icsk_retransmits; /* times that it was, without an answer */
	__u8 icsk_probes_out;  /* likewise, of probes of a closed window */
};

struct tcp_sock {
	__u64 tcp_mstamp;    /* CLOCK_MONOTONIC in us when it last sent or received */
	__u32 retrans_stamp; /* in SYN_SENT, when the SYN was sent: ms, or us */
	__u8 tcp_usec_ts : 1;
	__u32 rcv_tstamp;  /* jiffies when the last segment came */
	__u32 write_seq;   /* behind what the process has written, and the FIN */
	__u32 snd_una;     /* what the peer has acknowledged */
	__u32 packets_out; /* segments sent and not acknowledged */
	__u64 bytes_acked;
	__u64 bytes_received;
	__u64 bytes_sent;    /* payload, retransmissions too */
	__u64 bytes_retrans; /* payload of these */
	__u32 copied_seq;    /* what the process has read */
	__u32 rcv_nxt;       /* what has arrived */
	__u32 snd_nxt;       /* what was sent; kept by its minisock */
	__u32 srtt_us;       /* smoothed round trip, in eighths of a microsecond */
	__u32 total_retrans;
	int linger2; /* negative: no FIN_WAIT_2 for an orphan */
};

struct hlist_node {
	struct hlist_node **pprev;
};

struct timer_list {
	struct hlist_node entry; /* pprev is NULL while the timer is not set */
	unsigned long expires;   /* in jiffies */
	void (*function)(struct timer_list *);
};

/* The minisock: what is left of a connection in TIME_WAIT or FIN_WAIT_2. */
struct inet_timewait_sock {
	struct sock_common __tw_common;
	volatile unsigned char tw_substate;
	struct timer_list tw_timer;
};

/* A handshake on the listener's side, from the SYN to the final ACK. */
struct request_sock {
	struct sock_common __req_common;
	__u8 num_timeout : 7; /* SYN-ACKs that were not answered */
	struct timer_list rsk_timer;
};

struct tcp_request_sock {
	__u64 snt_synack; /* when the first SYN-ACK was sent, microseconds of CLOCK_MONOTONIC */
	__u32 snt_isn;    /* initial sequence number of the SYN-ACK */
};

struct sk_buff {
	unsigned char *head;
	__u16 transport_header; /* from head */
};

typedef struct {
	__u32 val;
} kuid_t;

struct cred {
	kuid_t uid;
};

struct task_struct {
	unsigned int flags;
	int pid;  /* of the thread */
	int tgid; /* of the process */
	struct files_struct *files;
	const struct cred *cred;
	struct task_struct *group_leader;
	char comm[16];
};

struct file;

/* Behind a file descriptor. */
struct socket {
	struct sock *sk;
};

/* What the iterators tell: NULL when they are at their end. */
struct bpf_iter__tcp {
	struct sock_common *sk_common;
};

struct bpf_iter__task_file {
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

#pragma clang attribute pop

#endif
