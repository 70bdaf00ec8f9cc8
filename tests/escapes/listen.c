/* A server: who asks from outside is answered. The test asks, from the canary's side. */
#include "escape.h"
static void serve(int bound) {
	int server = DO(socket(FAMILY, SOCK_STREAM, 0)), yes = 1;
	struct sockaddr_storage own;
	socklen_t length;
	address(&own, &length, FAMILY == AF_INET ? "0.0.0.0" : "::", bound);
	DO(setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes));
	if (bound)
		DO(bind(server, (struct sockaddr *)&own, length));
	DO(listen(server, 1));
	DO(getsockname(server, (struct sockaddr *)&own, &length));
	printf("%d\n", ntohs(((struct sockaddr_in *)&own)->sin_port));
	fflush(stdout);
	struct timeval limit = { .tv_sec = 5 };
	DO(setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
	say(DO(accept(server, NULL, NULL)));
}
#ifndef AUTOBIND
int main(int argc, char **argv) {
	begin(argc, argv);
	serve(7077);
}
#endif
