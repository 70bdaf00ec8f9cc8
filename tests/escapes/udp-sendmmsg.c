/* Several datagrams in one call: the first to ourselves, the second out. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	struct sockaddr_storage own;
	socklen_t length;
	address(&own, &length, FAMILY == AF_INET ? "127.0.0.1" : "::1", 0);
	int server = DO(socket(FAMILY, SOCK_DGRAM, 0)), client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(bind(server, (struct sockaddr *)&own, length));
	DO(getsockname(server, (struct sockaddr *)&own, &length));
	struct iovec text = { (void *)marker, strlen(marker) };
	struct mmsghdr messages[] = {
		{ .msg_hdr = { .msg_name = &own, .msg_namelen = length, .msg_iov = &text, .msg_iovlen = 1 } },
		{ .msg_hdr = { .msg_name = &target, .msg_namelen = target_length, .msg_iov = &text, .msg_iovlen = 1 } },
	};
	if (DO(sendmmsg(client, messages, 2, 0)) != 2)
		return 1;
}
