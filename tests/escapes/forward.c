/* A second namespace behind a cable, which forwards what the policy allows to the canary, as a router that
 * translates addresses does. Nobody runs there: its kernel sends. */
#include "tunnel.h"
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

static pid_t there;
static uint8_t batch[1024];
static size_t end;

/* What is written from here on is the value of an attribute, or of a message, until it is closed. */
static size_t attribute(int type, const void *value, size_t length) {
	size_t at = end;
	*(struct nlattr *)(batch + at) = (struct nlattr){ NLA_HDRLEN + length, type };
	if (length)
		memcpy(batch + at + NLA_HDRLEN, value, length);
	end += NLA_ALIGN(NLA_HDRLEN + length);
	return at;
}

static size_t nested(int type) {
	return attribute(type | NLA_F_NESTED, NULL, 0);
}

static void close_attribute(size_t at) {
	((struct nlattr *)(batch + at))->nla_len = end - at;
}

static void number(int type, uint32_t value) {
	value = htonl(value);
	attribute(type, &value, sizeof value);
}

static void text(int type, const char *value) {
	attribute(type, value, strlen(value) + 1);
}

static size_t message(int type, int flags, int family, int resource) {
	static uint32_t sequence;
	size_t at = end;
	*(struct nlmsghdr *)(batch + at) = (struct nlmsghdr){ 0, type, NLM_F_REQUEST | flags, sequence++, 0 };
	*(struct nfgenmsg *)(batch + at + NLMSG_HDRLEN) = (struct nfgenmsg){ family, NFNETLINK_V0, htons(resource) };
	end += NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(struct nfgenmsg));
	return at;
}

static void close_message(size_t at) {
	((struct nlmsghdr *)(batch + at))->nlmsg_len = end - at;
}

/* Whatever comes in is for the canary: a table, a chain, and a rule of two expressions. */
static void translate(const void *to, size_t length) {
	int six = FAMILY == AF_INET6, family = six ? NFPROTO_IPV6 : NFPROTO_IPV4;
	const int subsystem = NFNL_SUBSYS_NFTABLES << 8, make = NLM_F_CREATE | NLM_F_ACK;
	close_message(message(NFNL_MSG_BATCH_BEGIN, 0, 0, NFNL_SUBSYS_NFTABLES));
	size_t table = message(subsystem | NFT_MSG_NEWTABLE, make, family, 0);
	text(NFTA_TABLE_NAME, "escape");
	close_message(table);
	size_t chain = message(subsystem | NFT_MSG_NEWCHAIN, make, family, 0);
	text(NFTA_CHAIN_TABLE, "escape");
	text(NFTA_CHAIN_NAME, "before");
	size_t hook = nested(NFTA_CHAIN_HOOK);
	number(NFTA_HOOK_HOOKNUM, NF_INET_PRE_ROUTING);
	number(NFTA_HOOK_PRIORITY, -100);
	close_attribute(hook);
	text(NFTA_CHAIN_TYPE, "nat");
	close_message(chain);
	size_t rule = message(subsystem | NFT_MSG_NEWRULE, make | NLM_F_APPEND, family, 0);
	text(NFTA_RULE_TABLE, "escape");
	text(NFTA_RULE_CHAIN, "before");
	size_t expressions = nested(NFTA_RULE_EXPRESSIONS);
	size_t load = nested(NFTA_LIST_ELEM);
	text(NFTA_EXPR_NAME, "immediate");
	size_t data = nested(NFTA_EXPR_DATA);
	number(NFTA_IMMEDIATE_DREG, NFT_REG_1);
	size_t value = nested(NFTA_IMMEDIATE_DATA);
	attribute(NFTA_DATA_VALUE, to, length);
	close_attribute(value);
	close_attribute(data);
	close_attribute(load);
	size_t nat = nested(NFTA_LIST_ELEM);
	text(NFTA_EXPR_NAME, "nat");
	data = nested(NFTA_EXPR_DATA);
	number(NFTA_NAT_TYPE, NFT_NAT_DNAT);
	number(NFTA_NAT_FAMILY, family);
	number(NFTA_NAT_REG_ADDR_MIN, NFT_REG_1);
	close_attribute(data);
	close_attribute(nat);
	close_attribute(expressions);
	close_message(rule);
	close_message(message(NFNL_MSG_BATCH_END, 0, 0, NFNL_SUBSYS_NFTABLES));

	int kernel = DO(socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER));
	DO(send(kernel, batch, end, 0));
	/* An answer to each that asked for one, or one that there is no such part. */
	for (int answers = 0; answers < 3; answers++) {
		char answer[4096];
		DO(recv(kernel, answer, sizeof answer, 0));
		int error = -((struct nlmsgerr *)NLMSG_DATA(answer))->error;
		if (!error)
			continue;
		fprintf(stderr, "nftables: %s\n", strerrorname_np(error));
		exit(error == EOPNOTSUPP || error == ENOENT ? 3 : 1);
	}
}

static void undo(void) {
	system("ip link del escapeout 2>/dev/null");
	if (there > 0)
		kill(there, SIGKILL);
}

static void forwarding(void) {
	if (FAMILY == AF_INET)
		put("/proc/sys/net/ipv4/ip_forward", "1");
	else
		put("/proc/sys/net/ipv6/conf/all/forwarding", "1");
}

/* One of its two ends. What a kernel asks for its neighbours with is a socket that was made for who made the
 * namespace, and so an agent's: nobody is asked. */
static void cable(const char *device, int number) {
	int six = FAMILY == AF_INET6;
	const char *prefix = six ? "fd77::" : "10.77.0.";
	run("ip link set %s address 02:00:00:00:77:0%d", device, number);
	run("ip addr add %s%d/%d dev %s %s", prefix, number, six ? 64 : 24, device, six ? "nodad" : "");
	run("ip link set %s up", device);
	run("ip neigh add %s%d lladdr 02:00:00:00:77:0%d dev %s nud permanent", prefix, 3 - number, 3 - number, device);
}

/* As what made the other end ended. */
static int ended(void) {
	int status;
	DO(waitpid(there, &status, 0));
	there = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv) {
	begin(argc, argv);
	alarm(60);
	struct sockaddr_storage to = target;
	aim();
	int ready[2], laid[2];
	char byte = 'x';
	DO(pipe2(ready, O_CLOEXEC));
	DO(pipe2(laid, O_CLOEXEC));
	there = DO(fork());
	if (!there) {
		DO(unshare(CLONE_NEWNET));
		DO(write(ready[1], &byte, 1));
		DO(read(laid[0], &byte, 1));
		cable("escapein", 2);
		run("ip route add default via %s", FAMILY == AF_INET ? "10.77.0.1" : "fd77::1");
		forwarding();
		if (FAMILY == AF_INET)
			translate(&((struct sockaddr_in *)&to)->sin_addr, 4);
		else
			translate(&((struct sockaddr_in6 *)&to)->sin6_addr, 16);
		DO(write(ready[1], &byte, 1));
		pause();
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		return ended();
	atexit(undo);
	run("ip link add escapeout type veth peer name escapein netns %d", there);
	cable("escapeout", 1);
	forwarding();
	if (FAMILY == AF_INET) {
		/* What comes back has the sender it left with. */
		put("/proc/sys/net/ipv4/conf/all/rp_filter", "0");
		put("/proc/sys/net/ipv4/conf/escapeout/rp_filter", "0");
		put("/proc/sys/net/ipv4/conf/escapeout/accept_local", "1");
	}
	run("ip route add %s/%d via %s", allowed, width, FAMILY == AF_INET ? "10.77.0.2" : "fd77::2");
	DO(write(laid[1], &byte, 1));
	if (read(ready[0], &byte, 1) != 1)
		return ended();
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	/* The kernel looks at most once a second which devices have come up. */
	for (int n = 0; n < 15; n++) {
		send_allowed(client);
		usleep(100000);
	}
}
