/* io_uring: a datagram with an address, without a copy (IORING_OP_SEND_ZC, number 47). */
#include "uring.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	open_ring();
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	struct io_uring_sqe wanted = { .opcode = 47, .fd = client, .addr = (uintptr_t)marker, .len = strlen(marker), .off = (uintptr_t)TARGET };
	wanted.file_index = target_length; /* addr_len is its lower half */
	DO(request(wanted));
	usleep(100000);
}
