/* AF_XDP: a frame from a ring that is shared with the device. */
#include "escape.h"
#include <linux/if_xdp.h>
#include <net/if.h>
int main(int argc, char **argv) {
	begin(argc, argv);
	enum { SIZE = 2048, COUNT = 8 };
	int client = DO(socket(AF_XDP, SOCK_RAW, 0)), entries = COUNT;
	uint8_t *memory = mmap(NULL, SIZE * COUNT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct xdp_umem_reg area = { .addr = (uintptr_t)memory, .len = SIZE * COUNT, .chunk_size = SIZE };
	DO(setsockopt(client, SOL_XDP, XDP_UMEM_REG, &area, sizeof area));
	DO(setsockopt(client, SOL_XDP, XDP_UMEM_FILL_RING, &entries, sizeof entries));
	DO(setsockopt(client, SOL_XDP, XDP_UMEM_COMPLETION_RING, &entries, sizeof entries));
	DO(setsockopt(client, SOL_XDP, XDP_TX_RING, &entries, sizeof entries));
	struct xdp_mmap_offsets at;
	socklen_t length = sizeof at;
	DO(getsockopt(client, SOL_XDP, XDP_MMAP_OFFSETS, &at, &length));
	uint8_t *ring = mmap(NULL, at.tx.desc + COUNT * sizeof(struct xdp_desc), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_POPULATE, client, XDP_PGOFF_TX_RING);
	if (ring == MAP_FAILED)
		refused("mmap");
	uint8_t head[14] = { 255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, FAMILY == AF_INET ? 8 : 0x86, FAMILY == AF_INET ? 0 : 0xdd };
	memcpy(memory, head, sizeof head);
	size_t size = sizeof head + packet(memory + sizeof head, 0, 0);
	struct sockaddr_xdp to = { .sxdp_family = AF_XDP, .sxdp_ifindex = if_nametoindex("uplink"), .sxdp_flags = XDP_COPY };
	/* The device's queue is free only some time after its last user is gone. */
	int tries = 0;
	while (bind(client, (struct sockaddr *)&to, sizeof to) < 0) {
		if (errno != EBUSY || ++tries > 50)
			refused("bind");
		usleep(100000);
	}
	*(struct xdp_desc *)(ring + at.tx.desc) = (struct xdp_desc){ .addr = 0, .len = size };
	__atomic_store_n((uint32_t *)(ring + at.tx.producer), 1, __ATOMIC_RELEASE);
	DO(sendto(client, NULL, 0, MSG_DONTWAIT, NULL, 0));
}
