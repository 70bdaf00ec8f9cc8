/* io_uring: a datagram with an address. */
#include "uring.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	open_ring();
	struct iovec text = { (void *)marker, strlen(marker) };
	struct msghdr message = { .msg_name = &target, .msg_namelen = target_length, .msg_iov = &text, .msg_iovlen = 1 };
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(request((struct io_uring_sqe){ .opcode = IORING_OP_SENDMSG, .fd = client, .addr = (uintptr_t)&message, .len = 1 }));
}
