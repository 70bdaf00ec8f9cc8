/* The same, for one datagram of a socket that is connected: said beside it, in the form of RFC 6275, 6.4, the
 * only one that is taken there. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	uint8_t header[24] = { 0, 2, 2, 1 };
	char control[CMSG_SPACE(sizeof header)] = { 0 };
	struct iovec text = { (char *)marker, strlen(marker) };
	struct msghdr message = { .msg_iov = &text, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *head = (struct cmsghdr *)control;
	*head = (struct cmsghdr){ CMSG_LEN(sizeof header), IPPROTO_IPV6, IPV6_RTHDR };
	memcpy(header + 8, &((struct sockaddr_in6 *)&target)->sin6_addr, 16);
	memcpy(CMSG_DATA(head), header, sizeof header);
	address(&target, &target_length, setting("ESCAPE_ALLOWED6"), 7);
	int client = DO(socket(AF_INET6, SOCK_DGRAM, 0));
	DO(connect(client, TARGET, target_length));
	if (sendmsg(client, &message, 0) < 0) {
		int absent = errno == EINVAL;
		perror("sendmsg");
		return absent ? 3 : 1;
	}
}
