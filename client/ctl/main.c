/* main.c - scissorctl: looks into a running scissord. Parse, run. */
#include <locale.h>

#include "command.h"
#include "json.h"

int main(int argc, char **argv) {
    setlocale(LC_CTYPE, ""); /* which characters the terminal has; figures stay as in C */
    struct ctl ctl;
    const struct ctl_command *command;
    int status = ctl_parse(argc, argv, &ctl, &command);
    if (status)
        return status;
    ctl_json_init();
    return command->run(&ctl);
}
