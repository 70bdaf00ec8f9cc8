/* The same by process_vm_writev(2). */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	char text[64] = "";
	strcpy(text, marker);
	struct iovec from = { text, sizeof text }, to = { (void *)strtoul(setting("DEPUTY_CELL"), NULL, 16), sizeof text };
	DO(process_vm_writev(atoi(setting("DEPUTY_PID")), &from, 1, &to, 1, 0));
	usleep(300000);
}
