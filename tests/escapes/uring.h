/* As much of io_uring(7) as one request at a time needs. */
#include "escape.h"
#include <linux/io_uring.h>
static int ring, ring_flags;
static struct io_uring_params shape;
static uint8_t *submit, *complete;
static struct io_uring_sqe *entries;
static void *map(size_t length, off_t offset) {
	void *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, offset);
	if (at == MAP_FAILED)
		refused("mmap");
	return at;
}
static void open_ring(void) {
	shape.flags = ring_flags;
	ring = DO(syscall(SYS_io_uring_setup, 8, &shape));
	submit = map(shape.sq_off.array + shape.sq_entries * 4, IORING_OFF_SQ_RING);
	complete = map(shape.cq_off.cqes + shape.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
	entries = map(shape.sq_entries * sizeof *entries, IORING_OFF_SQES);
}
/* Gives what the request gives. */
static int request(struct io_uring_sqe wanted) {
	uint32_t tail = *(uint32_t *)(submit + shape.sq_off.tail), mask = *(uint32_t *)(submit + shape.sq_off.ring_mask);
	entries[tail & mask] = wanted;
	((uint32_t *)(submit + shape.sq_off.array))[tail & mask] = tail & mask;
	__atomic_store_n((uint32_t *)(submit + shape.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
	DO(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS | (ring_flags & IORING_SETUP_SQPOLL ? IORING_ENTER_SQ_WAKEUP : 0), NULL, 0));
	uint32_t head = *(uint32_t *)(complete + shape.cq_off.head), cmask = *(uint32_t *)(complete + shape.cq_off.ring_mask);
	int result = ((struct io_uring_cqe *)(complete + shape.cq_off.cqes))[head & cmask].res;
	__atomic_store_n((uint32_t *)(complete + shape.cq_off.head), head + 1, __ATOMIC_RELEASE);
	if (result < 0) {
		errno = -result;
		/* A request that this kernel does not know is invalid. */
		if (errno == EINVAL)
			errno = ENOSYS;
		return -1;
	}
	return result;
}
