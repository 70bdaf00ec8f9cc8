/* A packet of our own making (IP_HDRINCL). */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	uint8_t out[256];
	size_t length = packet(out, 0, 0);
	int client = DO(socket(FAMILY, SOCK_RAW, IPPROTO_RAW));
	((struct sockaddr_in *)&target)->sin_port = 0;
	DO(sendto(client, out, length, 0, TARGET, target_length));
}
