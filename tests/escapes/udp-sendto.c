/* A datagram with an address. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(sendto(client, marker, strlen(marker), 0, TARGET, target_length));
}
