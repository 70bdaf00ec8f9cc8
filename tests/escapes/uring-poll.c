/* io_uring: dialled by a thread of the kernel's (IORING_SETUP_SQPOLL). */
#include "uring.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	ring_flags = IORING_SETUP_SQPOLL;
	open_ring();
	int client = DO(socket(FAMILY, SOCK_STREAM, 0));
	DO(request((struct io_uring_sqe){ .opcode = IORING_OP_CONNECT, .fd = client, .addr = (uintptr_t)TARGET, .off = target_length }));
}
