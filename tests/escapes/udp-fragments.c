/* A datagram that leaves in fragments, of which only the first has ports. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	static char text[8000];
	for (size_t at = 0; at + strlen(marker) < sizeof text; at += strlen(marker))
		memcpy(text + at, marker, strlen(marker));
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(sendto(client, text, sizeof text, 0, TARGET, target_length));
}
