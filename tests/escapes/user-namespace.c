/* Every capability in a user namespace of our own: a mount is undone that hides a daemon's socket, or
 * where nothing is hidden, the socket is dialled from there. */
#include "unix.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	char *path = strdup(setting("DEPUTY_UNIX"));
	path[strcspn(path, ":")] = 0;
	DO(unshare(CLONE_NEWUSER | CLONE_NEWNS));
	umount2(path, MNT_DETACH);
	have_said(dial(path, 0));
}
