/* io_uring joins a group (IORING_OP_URING_CMD 46, SOCKET_URING_OP_SETSOCKOPT 3, from 6.7 on). */
#include "uring.h"
#include "join.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	make_group();
	open_ring();
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0)), device = if_nametoindex("uplink"), six = FAMILY == AF_INET6;
	struct ip_mreqn four = { ((struct sockaddr_in *)&group)->sin_addr, { 0 }, device };
	struct ipv6_mreq join = { ((struct sockaddr_in6 *)&group)->sin6_addr, device };
	uint32_t level = six ? IPPROTO_IPV6 : IPPROTO_IP, name = six ? IPV6_JOIN_GROUP : IP_ADD_MEMBERSHIP;
	struct io_uring_sqe wanted = { .opcode = 46, .fd = client, .off = 3, .addr = (uint64_t)name << 32 | level,
		.splice_fd_in = six ? sizeof join : sizeof four };
	uint64_t value = six ? (uintptr_t)&join : (uintptr_t)&four;
	memcpy((uint8_t *)&wanted + 48, &value, sizeof value);
	if (request(wanted) < 0) {
		if (errno == EOPNOTSUPP)
			errno = ENOSYS;
		refused("setsockopt");
	}
	joined();
}
