/* The same without bind(2), which a hook on bind does not see. */
#define AUTOBIND
#include "listen.c"
int main(int argc, char **argv) {
	begin(argc, argv);
	serve(0);
}
