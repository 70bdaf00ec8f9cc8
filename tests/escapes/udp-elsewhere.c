/* sendto(2) with another address than the socket is connected to. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	struct sockaddr_storage own;
	socklen_t length;
	address(&own, &length, FAMILY == AF_INET ? "127.0.0.1" : "::1", 0);
	int server = DO(socket(FAMILY, SOCK_DGRAM, 0)), client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(bind(server, (struct sockaddr *)&own, length));
	DO(getsockname(server, (struct sockaddr *)&own, &length));
	struct sockaddr_storage any;
	socklen_t any_length;
	DO(connect(client, (struct sockaddr *)&own, length));
	say(client);
	/* A source of ::1 would go nowhere else. */
	address(&any, &any_length, FAMILY == AF_INET ? "198.51.100.10" : "2001:db8:51::10", 0);
	char control[CMSG_SPACE(sizeof(struct in6_pktinfo))] = { 0 };
	struct iovec text = { (void *)marker, strlen(marker) };
	struct msghdr message = { .msg_name = &target, .msg_namelen = target_length, .msg_iov = &text,
		.msg_iovlen = 1, .msg_control = control };
	struct cmsghdr *head = (struct cmsghdr *)control;
	if (FAMILY == AF_INET) {
		struct in_pktinfo from = { .ipi_spec_dst = ((struct sockaddr_in *)&any)->sin_addr };
		*head = (struct cmsghdr){ CMSG_LEN(sizeof from), IPPROTO_IP, IP_PKTINFO };
		memcpy(CMSG_DATA(head), &from, sizeof from);
		message.msg_controllen = CMSG_SPACE(sizeof from);
	} else {
		struct in6_pktinfo from = { .ipi6_addr = ((struct sockaddr_in6 *)&any)->sin6_addr };
		*head = (struct cmsghdr){ CMSG_LEN(sizeof from), IPPROTO_IPV6, IPV6_PKTINFO };
		memcpy(CMSG_DATA(head), &from, sizeof from);
		message.msg_controllen = CMSG_SPACE(sizeof from);
	}
	DO(sendmsg(client, &message, 0));
}
