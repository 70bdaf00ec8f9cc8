/* A server of datagrams: who asks from outside is answered. The test asks, from the canary's side. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	int server = DO(socket(FAMILY, SOCK_DGRAM, 0));
	struct sockaddr_storage own, from;
	socklen_t length;
	address(&own, &length, FAMILY == AF_INET ? "0.0.0.0" : "::", 7077);
	DO(bind(server, (struct sockaddr *)&own, length));
	puts("7077");
	fflush(stdout);
	struct timeval limit = { .tv_sec = 5 };
	DO(setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
	char question[64];
	length = sizeof from;
	DO(recvfrom(server, question, sizeof question, 0, (struct sockaddr *)&from, &length));
	DO(sendto(server, marker, strlen(marker), 0, (struct sockaddr *)&from, length));
}
