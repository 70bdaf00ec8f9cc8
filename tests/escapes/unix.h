#include "escape.h"
#include <stddef.h>
/* A connection to a socket in the file system, or with `abstract` to one without. */
__attribute__((unused)) static int dial(const char *path, int abstract) {
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	snprintf(to.sun_path + abstract, sizeof to.sun_path - abstract, "%s", path);
	int client = DO(socket(AF_UNIX, SOCK_STREAM, 0));
	DO(connect(client, (struct sockaddr *)&to, offsetof(struct sockaddr_un, sun_path) + abstract + strlen(path)));
	return client;
}
__attribute__((unused)) static void have_said(int client) {
	char answer;
	say(client);
	DO(read(client, &answer, 1));
}
