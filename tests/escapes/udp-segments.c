/* One call, many datagrams: UDP_SEGMENT. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0)), size = strlen(marker);
	DO(setsockopt(client, IPPROTO_UDP, 103, &size, sizeof size));
	char text[4096] = "";
	for (int n = 0; n < 8; n++)
		strcat(text, marker);
	DO(sendto(client, text, strlen(text), 0, TARGET, target_length));
}
