/* A connection to where the policy allows it, whose packets a source route leads by way of the canary. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	if (FAMILY != AF_INET)
		return 2;
	uint8_t options[8] = { 1, 131, 7, 4 };
	memcpy(options + 4, &((struct sockaddr_in *)&target)->sin_addr, 4);
	address(&target, &target_length, setting("ESCAPE_ALLOWED"), 7);
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(setsockopt(client, IPPROTO_IP, IP_OPTIONS, options, 8));
	DO(sendto(client, marker, strlen(marker), 0, TARGET, target_length));
}
