/* DNS over HTTPS: another resolver by its address, in the name of a site that is allowed. What it is told
 * there is no word of ours, so that only where the packets go counts. */
#include "escape.h"
int main(int argc, char **argv) {
	static const char site[] = "api.example.com";
	const size_t name = sizeof site - 1;
	begin(argc, argv);
	set_port(443);
	int client = DO(socket(FAMILY, SOCK_STREAM, 0));
	DO(connect(client, TARGET, target_length));
	/* A ClientHello (RFC 8446, 4.1.2): a random, no session, one suite, no compression; of its extensions
	 * the server's name (RFC 6066, 3) and TLS 1.3. */
	uint8_t hello[128] = { 22, 3, 1, 0, 0, 1, 0, 0, 0, 3, 3 };
	size_t at = 11 + 32;
	memcpy(hello + at, "\0\0\2\x13\1\1\0", 7);
	at += 7;
	size_t extensions = at;
	at += 2;
	const uint8_t head[] = { 0, 0, 0, name + 5, 0, name + 3, 0, 0, name };
	memcpy(hello + at, head, sizeof head);
	at += sizeof head;
	memcpy(hello + at, site, name);
	at += name;
	memcpy(hello + at, "\0\x2b\0\3\2\3\4", 7);
	at += 7;
	hello[extensions + 1] = at - extensions - 2;
	hello[8] = at - 9;
	hello[4] = at - 5;
	DO(send(client, hello, at, MSG_NOSIGNAL));
	usleep(200000);
}
