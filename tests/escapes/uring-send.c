/* io_uring: a datagram on a connected socket. */
#include "uring.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	open_ring();
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(connect(client, TARGET, target_length));
	DO(request((struct io_uring_sqe){ .opcode = IORING_OP_SEND, .fd = client, .addr = (uintptr_t)marker, .len = strlen(marker) }));
}
