/* A query whose sender is the canary (IPV6_FREEBIND needs no right): whoever answers it sends there, a
 * resolver of our own or the guard's, which answers whatever resolver is asked. The answer has the name
 * that was asked for. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	uint8_t query[300] = { 0, 1, 1, 0, 0, 1 };
	size_t length = strlen(marker);
	query[12] = length;
	memcpy(query + 13, marker, length);
	memcpy(query + 13 + length, "\7example\0\0\1\0\1", 13);
	length += 13 + 13;

	struct sockaddr_storage resolver, any, asker;
	socklen_t size, from = sizeof asker;
	int client = DO(socket(AF_INET6, SOCK_DGRAM, 0)), yes = 1;
	DO(setsockopt(client, IPPROTO_IPV6, IPV6_FREEBIND, &yes, sizeof yes));
	((struct sockaddr_in6 *)&target)->sin6_port = 0;
	DO(bind(client, TARGET, target_length));
	address(&any, &size, "2001:db8:51::53", 53);
	sendto(client, query, length, 0, (struct sockaddr *)&any, size);

	int server = DO(socket(AF_INET6, SOCK_DGRAM, 0));
	address(&resolver, &size, "::1", 0);
	DO(bind(server, (struct sockaddr *)&resolver, size));
	DO(getsockname(server, (struct sockaddr *)&resolver, &size));
	DO(sendto(client, query, length, 0, (struct sockaddr *)&resolver, size));
	DO(recvfrom(server, query, sizeof query, 0, (struct sockaddr *)&asker, &from));
	DO(sendto(server, query, length, 0, (struct sockaddr *)&asker, from));
}
