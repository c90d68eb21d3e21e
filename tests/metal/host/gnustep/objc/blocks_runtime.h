// GNUstep's headers ask for the blocks of another Objective-C runtime; libBlocksRuntime has them.
#pragma once

#include <Block.h>
