/* An abstract socket, which no mount can hide. */
#include "unix.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	have_said(dial(setting("DEPUTY_ABSTRACT"), 1));
}
