/* io_uring: the socket is made by a call, dialled by the ring. */
#include "uring.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	open_ring();
	int client = DO(socket(FAMILY, SOCK_STREAM, 0));
	DO(request((struct io_uring_sqe){ .opcode = IORING_OP_CONNECT, .fd = client, .addr = (uintptr_t)TARGET, .off = target_length }));
}
