/* A connection to where the policy allows it, which a source route leads by way of the canary once it is there. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	uint8_t options[8] = { 1, 131, 7, 4 };
	memcpy(options + 4, &((struct sockaddr_in *)&target)->sin_addr, 4);
	address(&target, &target_length, setting("ESCAPE_ALLOWED"), 7);
	int client = DO(socket(AF_INET, SOCK_STREAM, 0));
	DO(connect(client, TARGET, target_length));
	DO(setsockopt(client, IPPROTO_IP, IP_OPTIONS, options, 8));
	say(client);
	leave(client);
}
