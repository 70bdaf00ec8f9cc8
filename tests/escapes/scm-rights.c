/* A socket that was made outside and is handed in (SCM_RIGHTS), over a path that both sides share. */
#include "unix.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = dial(setting("DEPUTY_SHARED"), 0), got;
	DO(send(client, "give", 4, MSG_NOSIGNAL));
	char control[CMSG_SPACE(sizeof got)], byte;
	struct iovec text = { &byte, 1 };
	struct msghdr message = { .msg_iov = &text, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	DO(recvmsg(client, &message, 0));
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	if (!head)
		return 1;
	memcpy(&got, CMSG_DATA(head), sizeof got);
	/* The answer to an earlier datagram of its owner's may be an error that is told now. */
	if (send(got, marker, strlen(marker), 0) < 0)
		say(got);
}
