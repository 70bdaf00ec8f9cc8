/* AF_ALG: kernel code that an agent has no business with. */
#include "escape.h"
#include <linux/if_alg.h>
int main(int argc, char **argv) {
	begin(argc, argv);
	struct sockaddr_alg to = { .salg_family = AF_ALG, .salg_type = "hash", .salg_name = "sha256" };
	int maker = DO(socket(AF_ALG, SOCK_SEQPACKET, 0));
	DO(bind(maker, (struct sockaddr *)&to, sizeof to));
	int client = DO(accept(maker, NULL, NULL));
	uint8_t digest[32];
	DO(send(client, marker, strlen(marker), 0));
	DO(read(client, digest, sizeof digest));
	prove("socket");
}
