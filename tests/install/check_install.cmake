# Installs BUILD into a fresh prefix, builds the outside project against it and runs it.
set(prefix ${BUILD}/install-test/prefix)
set(outside ${BUILD}/install-test/build)
file(REMOVE_RECURSE ${BUILD}/install-test)

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "failed: ${ARGN}")
  endif()
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${prefix})
run(${CMAKE_COMMAND} -S ${SOURCE} -B ${outside} -G ${GENERATOR} -DCMAKE_PREFIX_PATH=${prefix}
    "-DCMAKE_CXX_FLAGS=${FLAGS}")
run(${CMAKE_COMMAND} --build ${outside})
run(${outside}/outside ${CLUSTER})
run(${prefix}/bin/pipemoe --version)
