/* Which kernels run here: the table of all kernels in this build, the slowest first. */
#include "dn_impl.h"

#include <string.h>

static const dn_kernels *const table[] = {&dn_kernels_portable};

enum { TABLE_LENGTH = sizeof table / sizeof table[0] };

const dn_kernels *dn_kernels_best(void) {
    size_t i = TABLE_LENGTH - 1;
    while (i && !table[i]->runs_here()) i--;
    return table[i];
}

const dn_kernels *dn_kernels_find(const char *name) {
    for (size_t i = 0; i < TABLE_LENGTH; i++)
        if (!strcmp(table[i]->name, name) && table[i]->runs_here()) return table[i];
    return NULL;
}

const char *dn_kernels_name(size_t index) { return index < TABLE_LENGTH ? table[index]->name : NULL; }

int dn_kernels_run_here(size_t index) { return index < TABLE_LENGTH && table[index]->runs_here(); }

const char *dn_model_kernels(const dn_model *model) { return model->kernels->name; }

dn_status dn_model_use_kernels(dn_model *model, const char *name) {
    if (!model || !name) return DN_NULL_ARGUMENT;
    const dn_kernels *kernels = dn_kernels_find(name);
    if (!kernels) return DN_UNKNOWN_KERNELS;
    model->kernels = kernels;
    model->prepared = NULL;
    return DN_OK;
}
