/* DNS over HTTP/3: another resolver by UDP, with what looks like the first packet of QUIC (RFC 9000, 17.2.2). */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	set_port(443);
	uint8_t initial[1200] = { 0xc3, 0, 0, 0, 1, 8 };
	memcpy(initial + 16, marker, strlen(marker));
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(connect(client, TARGET, target_length));
	DO(send(client, initial, sizeof initial, 0));
}
