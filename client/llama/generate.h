/* generate.h - the ordinary mode: reads a prompt through the cache and writes new text. */
#pragma once

#include "engine.h"

int generate_run(struct engine *engine, struct failure *failure);
